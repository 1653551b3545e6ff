// One warp solves one problem. What its lanes share of the stage at hand lies in `Work`, on the chip.
//
// Columns are the nu inputs and then the nx states: lane c has column c of a stage's vectors. Bounds are sides
// value <= limit: nb lower ones negated, nb upper ones, then the m rows of G; side i belongs to lane i % 32. Python writes
// the sizes and settings in front of this text (`pimpc.cuda_kernels`). All functions are called by all lanes.

#define INF __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)
#define TINY 1.17549435e-38f
#define DEVICE __device__ __forceinline__

constexpr unsigned ALL = 0xffffffffu;
constexpr int n = nu + nx;
constexpr int ns = 2 * nb + m;
constexpr int chunks = (ns + 31) / 32;
constexpr int LD = 36;  // a row of eight slots of four columns, and four more for the banks' sake
constexpr bool pairs = most_columns % 2 == 0 && nu % 2 == 0 && all_even;  // G may be read two columns at a time

struct __align__(16) Work {
  float X[n][LD];                   // see `riccati.cuh`
  float E[nx][LD];                  // rows of [B_k, A_k], the columns as they are or in slots
  float G[lines > 0 ? (lines * nu + 3) / 4 * 4 : 4];  // of different blocks side by side
  float u[32], v[32], w[32];
  float P_xx[nx][nx];
  float stiff[ns > 0 ? ns : 1], push[ns > 0 ? ns : 1];
};

__shared__ Work work;

// One problem, its stages one after the other.
struct Problem {
  const float *A, *B, *e, *x0, *u_prev, *x_ref, *u_ref, *Q, *R, *S, *G, *h, *u_min, *u_max, *x_min, *x_max, *give_x;
};

// What the passes over the stages leave for each other. A stage's T, nu x n, the first rows of its swept Hessian, is in
// `T_here` while it is worked on, and stays there if there is room for all; and so do the other tables in `rest_here`.
constexpr int table_T = N * nu * n;
constexpr int at_point = N * nu, at_s = at_point + (N + 1) * n, at_z = at_s + N * ns, at_delta = at_z + N * ns;
constexpr int at_change = at_delta + N * ns, at_at = at_change + N * ns, at_climb = at_at + N * m;
constexpr int at_move = at_climb + N * m, at_free = at_move + N * n, table_rest = (at_free + N + 3) / 4 * 4;

__shared__ __align__(16) float T_here[(tables_on_chip >= 1 ? table_T : nu * n) + 32];  // the last row may be read on
__shared__ float rest_here[tables_on_chip >= 2 ? table_rest : 1];

struct Tables {
  float *far;  // in the other memory

  DEVICE float *rest() const { return tables_on_chip >= 2 ? rest_here : far; }
  DEVICE float *t() const { return rest(); }                               // nu: swept linear terms
  DEVICE float *point() const { return rest() + at_point; }                // n: (u_{k-1}, x_k), for N + 1 stages
  DEVICE float *s() const { return rest() + at_s; }                        // ns: slacks
  DEVICE float *z() const { return rest() + at_z; }                        // ns: forces
  DEVICE float *delta() const { return rest() + at_delta; }                // ns: the proximal term; 0 marks what is no side
  DEVICE float *change() const { return rest() + at_change; }              // ns: ds dz of the predictor, then dz
  DEVICE float *at() const { return rest() + at_at; }                      // m: G_k u_k
  DEVICE float *climb() const { return rest() + at_climb; }                // m: G_k du_k
  DEVICE float *move() const { return rest() + at_move; }                  // n: (du_k, dx_{k+1})
  DEVICE unsigned *free() const { return (unsigned *)(rest() + at_free); }  // bits of the inputs that may move
  DEVICE float *T(int k) const { return T_here + (tables_on_chip >= 1 ? k * nu * n : 0); }
  DEVICE float *far_T(int k) const { return far + table_rest + k * nu * n; }
};

DEVICE int lane() { return threadIdx.x; }

// Numbers on their way from the other memory to the chip, `count` of them, in the lanes' registers. Everything that a stage
// needs is asked for before anything is waited for: what is read takes longer to come than most stages take to compute.
template <int count>
struct Transit {
  static constexpr int wide = count % 4 == 0 ? 4 : 1, each = (count / wide + 31) / 32;
  static constexpr int size = count > 0 ? each * wide : 1;
  float v[size];

  DEVICE void read(const float *from) {
#pragma unroll
    for (int i = 0; i < each; i++) {
      int at = i * 32 + threadIdx.x;
      if (i * 32 + 32 > count / wide && at >= count / wide) at = count / wide - 1;
      if (wide == 4) {
        float4 four = ((const float4 *)from)[at];
        v[i * wide] = four.x;
        v[(i * wide + 1) % size] = four.y;
        v[(i * wide + 2) % size] = four.z;
        v[(i * wide + 3) % size] = four.w;
      } else {
        v[i] = from[at];
      }
    }
  }

  DEVICE void write(float *to) const {
#pragma unroll
    for (int i = 0; i < each; i++) {
      int at = i * 32 + threadIdx.x;
      if (i * 32 + 32 > count / wide && at >= count / wide) continue;
      if (wide == 4)
        ((float4 *)to)[at] = make_float4(v[i * wide], v[(i * wide + 1) % size],
                                         v[(i * wide + 2) % size], v[(i * wide + 3) % size]);
      else to[at] = v[i];
    }
  }
};

constexpr int moved_T = tables_on_chip == 0 ? nu * n : 0;

// A stage's T, if it is not on the chip anyway.
struct Transit_T : Transit<moved_T> {
  DEVICE void fetch(const Tables &table, int k) {
    if (moved_T > 0) read(table.far_T(k));
  }
  DEVICE void place() const {
    if (moved_T > 0) write(T_here);
  }
};

DEVICE void keep_T(const Tables &table, int k) {
  if (moved_T > 0) {
    Transit_T T;
    T.read(T_here);
    T.write(table.far_T(k));
  }
}

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

// A stage's G.
struct Transit_G : Transit<lines * nu> {
  DEVICE void fetch(const Problem &of, int k) {
    if (m > 0) read(of.G + k * lines * nu);
  }
  DEVICE void place() const {
    if (m > 0) write(work.G);
  }
};

DEVICE void load_G(const Problem &of, int k) {
  Transit_G G;
  G.fetch(of, k);
  G.place();
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
DEVICE float climb_of(const Places &at, int i) {
  float total = 0;
  if (m == 0) return 0;
  const float *row = work.G + at.row[i], *by = work.v + at.first[i];
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
DEVICE float reach_of(const Places &at, int i, float least) {
  float total = 0;
  if (m == 0) return 0;
  const float *row = work.G + at.row[i], *by = work.v + at.first[i];
#pragma unroll
  for (int j = 0; j < most_columns; j++)
    if (same_columns || j < at.count[i]) total += fabsf(row[j]) * fmaxf(fabsf(by[j]), least);
  return at.count[i] > 0 ? total : 0;
}

// Column `lane` of C' push, with Work::push and Work::G.
DEVICE float pull(const Places &at) {
  int c = lane();
  float total = 0;
  if (m > 0) {
    const float *column = work.G + (shared_column() < nu ? shared_column() : 0), *push = work.push + 2 * nb + at.rows_first;
#pragma unroll
    for (int l = 0; l < lines; l += sharers) {
      int row = l + share();
      if ((same_rows && lines % sharers == 0) || row < at.rows_count) total += column[row * nu] * push[row];
    }
    if (sharers == 2) total += __shfl_xor_sync(ALL, total, 16);
  }
  if (c >= nu) total = 0;
  return c < nb ? total + work.push[nb + c] - work.push[c] : total;
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

// Rolls out the inputs in the table of points.
DEVICE void roll_out(const Problem &of, float *point) {
  int c = lane();
  bool state = c >= nu && c < n;
  if (c < n) point[c] = c < nu ? of.u_prev[c] : of.x0[c - nu];
  float x = state ? of.x0[c - nu] : 0;
  for (int k = 0; k < N; k++) {
    float ba[nx];
    load_BA(of, k, ba);
    float e = of.e[k * nx + (state ? c - nu : 0)];
    x = ahead(ba, c < nu ? point[(k + 1) * n + c] : x) + e;
    if (state) point[(k + 1) * n + c] = x;
  }
  __syncwarp();
}
