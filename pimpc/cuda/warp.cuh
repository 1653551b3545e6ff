// What the lanes of a warp do together: sums, products, the rows of G and their transposes, roll-outs.

// A quotient to two units in the last place: exact ones take a branch each.
DEVICE float ratio(float a, float b) { return __fdividef(a, b); }

DEVICE float sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(ALL, v, d);
  return v;
}

DEVICE float most(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(ALL, v, d));
  return v;
}

// A vector on the chip that all lanes need, in as few accesses as its place allows. Reads up to three numbers more.
template <int count, int size>
DEVICE void load_vector(const float *from, float (&to)[size]) {
  constexpr bool wide = nu % 4 == 0;
#pragma unroll
  for (int i = 0; i < count; i += 4) {
    float4 v = wide ? *(const float4 *)(from + i) : make_float4(0, 0, 0, 0);
    to[i] = wide ? v.x : from[i];
    if (i + 1 < count) to[i + 1] = wide ? v.y : from[i + 1];
    if (i + 2 < count) to[i + 2] = wide ? v.z : from[i + 2];
    if (i + 3 < count) to[i + 3] = wide ? v.w : from[i + 3];
  }
}

// Lane r < rows gets the product of row r of a matrix, on the chip, with a vector there; other lanes get anything.
template <int rows, int columns, int ld>
DEVICE float product(const float *matrix, const float *vector) {
  constexpr int parts = 32 / rows, share = (columns + parts - 1) / parts;
  int part = lane() / rows, r = lane() - part * rows, first = part < parts ? part * share : 0;
  const float *row = matrix + r * ld + first, *by = vector + first;
  float total = 0;
#pragma unroll
  for (int i = 0; i < share; i++)
    if (share * parts <= 32 || first + i < columns) total += row[i] * by[i];  // vectors end with zeros
  float part_sum = total;
#pragma unroll
  for (int p = 1; p < parts; p++) total += __shfl_sync(ALL, part_sum, (r + p * rows) % 32);
  return total;
}

// Where the lane's sides and its column are in G, which does not change from stage to stage.
struct Places {
  int row[chunks + 1], first[chunks + 1], count[chunks + 1];  // of each side that is a row: its start, and its columns
  int rows_first, rows_count, first_column, columns_end;      // of the column's block
};

// With up to 16 inputs two lanes share a column: c and c + 16.
constexpr int sharers = nu <= 16 ? 2 : 1;
DEVICE int shared_column() { return sharers == 2 ? lane() % 16 : lane(); }
DEVICE int share() { return sharers == 2 ? lane() / 16 : 0; }

DEVICE Places places_of_lane() {
  Places at;
#pragma unroll
  for (int i = 0; i < chunks; i++) {
    int r = lane() + 32 * i - 2 * nb;
    at.row[i] = (r > 0 ? r : 0) * nu;
    at.first[i] = 0;
    at.count[i] = nu;
    int row = 0, column = 0;
#pragma unroll
    for (int b = 0; b < blocks; b++) {
      if (r >= row) {
        at.row[i] = (r - row) * nu + column;
        at.first[i] = column;
        at.count[i] = block_columns[b];
      }
      row += block_rows[b];
      column += block_columns[b];
    }
    if (r < 0 || r >= m) at.row[i] = at.count[i] = 0;
  }
  at.rows_first = 0;
  at.rows_count = m;
  at.first_column = 0;
  at.columns_end = nu;
  int row = 0, column = 0;
#pragma unroll
  for (int b = 0; b < blocks; b++) {
    if (shared_column() >= column) {
      at.rows_first = row;
      at.rows_count = block_rows[b];
      at.first_column = column;
      at.columns_end = column + block_columns[b];
    }
    row += block_rows[b];
    column += block_columns[b];
  }
  return at;
}

// Column `lane` of [B_k, A_k]; anything in lanes without one.
DEVICE void load_BA(const Problem &of, int k, float (&ba)[nx]) {
  int c = lane() < n ? lane() : n - 1;
  const float *from = c < nu ? of.B + k * nx * nu + c : of.A + k * nx * nx + c - nu;
  int step = c < nu ? nu : nx;
#pragma unroll
  for (int j = 0; j < nx; j++) ba[j] = from[j * step];
}

// The side's row of G times Work::v; 0 for a side that is no row.
DEVICE float climb_of(const Places &at, int i, const float *G) {
  float total = 0;
  if (m == 0) return 0;
  const float *row = G + at.row[i], *by = work.v + at.first[i];
  if (pairs) {
#pragma unroll
    for (int j = 0; j < most_columns; j += 2) {
      float2 g = *(const float2 *)(row + j), v = *(const float2 *)(by + j);
      if (same_columns || j < at.count[i]) total += g.x * v.x + g.y * v.y;
    }
  } else {
#pragma unroll
    for (int j = 0; j < most_columns; j++)
      if (same_columns || j < at.count[i]) total += row[j] * by[j];
  }
  return at.count[i] > 0 ? total : 0;
}

// The same of absolute values, those of the inputs at least `least`.
DEVICE float reach_of(const Places &at, int i, const float *G, float least) {
  float total = 0;
  if (m == 0) return 0;
  const float *row = G + at.row[i], *by = work.v + at.first[i];
#pragma unroll
  for (int j = 0; j < most_columns; j++)
    if (same_columns || j < at.count[i]) total += fabsf(row[j]) * fmaxf(fabsf(by[j]), least);
  return at.count[i] > 0 ? total : 0;
}

// Column `lane` of C' push, push and G of one stage.
DEVICE float pull(const Places &at, const float *G, const float *push) {
  int c = lane();
  float total = 0;
  if (m > 0) {
    const float *column = G + (shared_column() < nu ? shared_column() : 0), *by = push + 2 * nb + at.rows_first;
#pragma unroll
    for (int l = 0; l < lines; l += sharers) {
      int row = l + share();
      if ((same_rows && lines % sharers == 0) || row < at.rows_count) total += column[row * nu] * by[row];
    }
    if (sharers == 2) total += __shfl_xor_sync(ALL, total, 16);
  }
  if (c >= nu) total = 0;
  return c < nb ? total + push[nb + c] - push[c] : total;
}

// The limit of a side; infinite: there is none.
DEVICE float limit_of(const Problem &of, int k, int side) {
  if (side >= 2 * nb) return m > 0 && side < ns ? of.h[k * m + side - 2 * nb] : INF;
  bool upper = side >= nb;
  int c = upper ? side - nb : side;
  if (c < nu) {
    if (!bounds_inputs) return INF;
    if (upper) return has_u_max ? of.u_max[k * nu + c] : INF;
    return has_u_min ? -of.u_min[k * nu + c] : INF;
  }
  if (upper) return has_x_max ? of.x_max[k * nx + c - nu] : INF;
  return has_x_min ? -of.x_min[k * nx + c - nu] : INF;
}

// A side's value at a plan (or a step of one): `point` is stage k + 1's, `at` stage k's.
DEVICE float value_of(const float *point, const float *at, int side) {
  if (side < nb) return -point[side];
  if (side < 2 * nb) return point[side - nb];
  return side < ns ? at[side - 2 * nb] : 0;
}

DEVICE bool bounds_state(int side) { return nb > nu && side < 2 * nb && (side < nb ? side : side - nb) >= nu; }

// What lane c knows of column c of a stage: weight, reference, weight of the rate, value, and the input before; the last
// column once more, without a weight, in lanes that have none.
struct Column {
  float weight, reference, rate, value, before;
};

DEVICE Column column_of(const Problem &of, const float *point, int k) {
  int c = lane() < n ? lane() : n - 1;
  bool input = c < nu;
  int at = input ? k * nu + c : k * nx + c - nu;
  Column it;
  it.weight = (input ? of.R : of.Q)[at];
  it.reference = (input ? of.u_ref : of.x_ref)[at];
  it.value = point[(k + 1) * n + c];
  it.before = point[k * n + c];
  it.rate = of.S[input ? at : 0];
  if (!input) it.rate = 0;
  if (lane() >= n) it.weight = 0;
  return it;
}

// x_{k+1} (or its step) in the states' lanes, from (u_k, x_k) in the lanes and column `lane` of [B_k, A_k].
DEVICE float ahead(const float (&ba)[nx], float here) {
  __syncwarp();
  work.w[lane()] = lane() < n ? here : 0;
#pragma unroll
  for (int j = 0; j < nx; j++) work.E[j][lane()] = ba[j];
  __syncwarp();
  float next = product<nx, n, LD>(&work.E[0][0], work.w);
  return __shfl_sync(ALL, next, lane() < nu ? 0 : lane() - nu);
}

// x_{k+1} in the states' lanes, from (u_k, x_k) in the lanes.
DEVICE float state_after(const Problem &of, int k, float here) {
  int c = lane();
  float ba[nx], e = of.e[k * nx + (c >= nu && c < n ? c - nu : 0)];
  load_BA(of, k, ba);
  return ahead(ba, here) + e;
}

// Rolls out the inputs in the table of points.
DEVICE void roll_out(const Problem &of, float *point) {
  int c = lane();
  bool state = c >= nu && c < n;
  if (c < n) point[c] = c < nu ? of.u_prev[c] : of.x0[c - nu];
  float x = state ? of.x0[c - nu] : 0;
  for (int k = 0; k < N; k++) {
    x = state_after(of, k, c < nu ? point[(k + 1) * n + c] : x);
    if (state) point[(k + 1) * n + c] = x;
  }
  __syncwarp();
}
