// Newton steps of short horizons: the states are eliminated once, and each Hessian of the free inputs, in one order over all
// stages, is factorized as one dense matrix. Only that factorization goes from column to column; all else is done for all
// stages at once, so that a warp seldom waits.
//
// Lane l has the rows l and l + 32: its two seats. The row after the last free input is that of the right-hand side: what
// the factorization leaves of it is the solution's first half.

constexpr int rows_of_H = 64, halves = rows_of_H / 32, panel = 8;
constexpr int most_free = rows_of_H - 1;
constexpr int LH = rows_of_H + 4;    // 16 bytes more, so that eight lanes read 16 bytes each of eight rows at once
constexpr int LG = lines * nu + 4;   // likewise
constexpr bool forces_in_work = 2 * N * ns <= n * LD;

struct Condensed {
  float H[rows_of_H][LH];    // on and below the diagonal the Hessian, above it L', see `factorize_panel`
  float own[most_free][nu];  // of the Hessian without the barrier: the block of the inputs of the same stage
  __align__(16) float G[N * LG];
  float value[N * ns + 1], limit[N * ns + 1], climb[N * ns + 1];  // of the sides, one after the other
  float forces[forces_in_work ? 1 : 2 * N * ns];
  __align__(16) float step[N * nu];
  __align__(16) float v[rows_of_H];  // the way from the start, or a solution in the making
  float A[N * nx * nx], B[N * nx * nu], e[N * nx], x_ref[N * nx], Q[N * nx], u_ref[N * nu], R[N * nu], S[N * nu];
  float h[N * m + 1], u_min[has_u_min ? N * nu : 1], u_max[has_u_max ? N * nu : 1];
  int spot[most_free];  // k nu + c of each free input
  int what[N * ns + 1];
  short place[N * ns + 1];  // k ns + side of each side
};

static_assert(sizeof(Condensed) <= 4 * room_condensed, "Python has counted wrongly");

DEVICE Condensed &condensed() { return *(Condensed *)condensed_here; }

// What the sides push with and how stiff they are, ns for each stage. Condensing is over before they are needed.
DEVICE float *push_of_sides() { return forces_in_work ? &work.X[0][0] : condensed().forces; }
DEVICE float *stiff_of_sides() { return push_of_sides() + N * ns; }

DEVICE unsigned below(int c) { return (1u << c) - 1; }

// The block of G that a column belongs to.
struct Block {
  int rows_first, rows_count, first_column, columns_end;
};

DEVICE Block block_of(int c) {
  Block at = {0, m, 0, nu};
  int row = 0, column = 0;
#pragma unroll
  for (int b = 0; b < blocks; b++) {
    if (c >= column) at = {row, block_rows[b], column, column + block_columns[b]};
    row += block_rows[b];
    column += block_columns[b];
  }
  return at;
}

// What a lane knows of one of its rows, the Hessian's row and column `f`.
struct Seat {
  bool taken;
  int f, spot, k, c;  // input c of stage k
  unsigned free;      // inputs of that stage, the first of which is `first`
  int first, count;
  Block block;
};

// Lists the free inputs; returns their number, of which no more than `most_free` are listed.
DEVICE int list_free(const Tables &table) {
  int c = lane(), total = 0;
  for (int k = 0; k < N; k++) {
    unsigned free = table.free()[k];
    int f = total + __popc(free & below(c));
    if (c < nu && (free >> c & 1) && f < most_free) condensed().spot[f] = k * nu + c;
    total += __popc(free);
  }
  __syncwarp();
  return total;
}

DEVICE Seat seat_of(const Tables &table, int half, int total) {
  Seat it;
  it.f = lane() + 32 * half;
  it.taken = it.f < total;
  it.spot = it.taken ? condensed().spot[it.f] : 0;
  it.k = it.spot / nu;
  it.c = it.spot - it.k * nu;
  it.free = table.free()[it.k];
  it.first = it.f - __popc(it.free & below(it.c));
  it.count = it.taken ? __popc(it.free) : 0;
  it.block = block_of(it.c);
  return it;
}

// Puts a stage's [B, A] on the chip.
DEVICE void place_BA(const float (&ba)[nx]) {
  __syncwarp();
#pragma unroll
  for (int j = 0; j < nx; j++) work.E[j][lane()] = ba[j];
  __syncwarp();
}

// With P_k the Hessian of the cost of x_{k+1} and what follows without inputs, and W the derivative of x_{k+1} by all earlier
// inputs, the rows of stage k are B_k' P_k W, and the weights of inputs and of their rates. This is B_k' P_k, one stage after
// the other from the last, in the place of those rows. P_k is in Work::X.
DEVICE void costates(const Problem &of, const Tables &table, int total) {
  int c = lane(), row = total;
  float P[nx], Q = of.Q[(N - 1) * nx + (c < nx ? c : 0)];
  Columns columns;
  columns.begin(of, N - 1, -1);
#pragma unroll
  for (int j = 0; j < nx; j++) P[j] = 0;
  for (int k = N - 1; k >= 0; k--) {
    float ba[nx], PBA[nx];
    columns.take(of, k, -1, ba);
    place_BA(ba);
    if (c >= nu && c < n) {
#pragma unroll
      for (int j = 0; j < nx; j++) work.X[c - nu][j] = P[j];
    }
    __syncwarp();
    if (c < nx) work.X[c][c] += Q;
    Q = of.Q[Columns::inside(k - 1) * nx + (c < nx ? c : 0)];
    __syncwarp();
    unsigned free = table.free()[k];
    row -= __popc(free);
#pragma unroll
    for (int j = 0; j < nx; j++) {
      float by[nx];
      load_vector<nx>(work.X[j], by);
      PBA[j] = 0;
#pragma unroll
      for (int l = 0; l < nx; l++) PBA[j] += by[l] * ba[l];
      P[j] = 0;
    }
    if (c < nu && (free >> c & 1)) {
      float *to = condensed().H[row + __popc(free & below(c))];
#pragma unroll
      for (int j = 0; j < nx; j++) to[j] = PBA[j];
    }
#pragma unroll
    for (int l = 0; l < nx; l++) {
      float by[nx];
      load_vector<nx>(work.E[l] + nu, by);
#pragma unroll
      for (int j = 0; j < nx; j++) P[j] += by[j] * PBA[l];
    }
  }
  __syncwarp();
}

// The Hessian without the barrier.
DEVICE void condense(const Problem &of, const Tables &table, const Seat (&seat)[halves], int total) {
  Condensed &it = condensed();
  costates(of, table, total);
  float w[halves][nx], weight[halves], rate[halves];
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    rate[half] = own.k + 1 < N ? of.S[own.spot + (own.k + 1 < N ? nu : 0)] : 0;
    weight[half] = own.taken ? of.R[own.spot] + of.S[own.spot] + rate[half] : 1;
#pragma unroll
    for (int j = 0; j < nx; j++) w[half][j] = 0;
  }
  int row = 0;
  float next[nx];
  load_vector<nx>(it.H[0], next);
  Columns columns;
  columns.begin(of, 0, 1);
  for (int k = 0; k < N; k++) {
    float ba[nx];
    columns.take(of, k, 1, ba);
    place_BA(ba);
    float moved[halves][nx];
#pragma unroll
    for (int j = 0; j < nx; j++) {
      float by[nx];
      load_vector<nx>(work.E[j] + nu, by);
#pragma unroll
      for (int half = 0; half < halves; half++) {
        moved[half][j] = 0;
#pragma unroll
        for (int l = 0; l < nx; l++) moved[half][j] += by[l] * w[half][l];
        if (seat[half].taken && seat[half].k == k) moved[half][j] = work.E[j][seat[half].c];
      }
    }
#pragma unroll
    for (int half = 0; half < halves; half++)
#pragma unroll
      for (int j = 0; j < nx; j++) w[half][j] = moved[half][j];
    for (unsigned left = table.free()[k]; left; left &= left - 1) {
      float here[nx], entry[halves];
#pragma unroll
      for (int j = 0; j < nx; j++) here[j] = next[j];
      load_vector<nx>(it.H[row + 1], next);  // before it may be overwritten
      int spot = it.spot[row];
#pragma unroll
      for (int half = 0; half < halves; half++) {
        entry[half] = 0;
#pragma unroll
        for (int j = 0; j < nx; j++) entry[half] += here[j] * w[half][j];
        if (seat[half].f == row) entry[half] += weight[half];
        if (seat[half].taken && seat[half].spot + nu == spot) entry[half] -= rate[half];
      }
      __syncwarp();
#pragma unroll
      for (int half = 0; half < halves; half++) it.H[row][seat[half].f] = entry[half];
      row++;
    }
  }
  for (; row <= total || row % panel != 0; row++)
#pragma unroll
    for (int half = 0; half < halves; half++) it.H[row][seat[half].f] = 0;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++)
    for (int i = 0; i < seat[half].count; i++) it.own[seat[half].f][i] = it.H[seat[half].f][seat[half].first + i];
  __syncwarp();
}

// Renews the blocks on the Hessian's diagonal, G' D G with D = stiff_of_sides() included if there is a barrier, and the row
// of the right-hand side.
DEVICE void renew(const Seat (&seat)[halves], int total, bool barrier, const float (&right)[halves]) {
  Condensed &it = condensed();
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    float *row = it.H[own.f];
    if (!own.taken) {
      row[own.f] = own.f == total ? 1e30f : 1;  // the right-hand side is no pivot
      continue;
    }
    it.H[total][own.f] = right[half];
    const Block &at = own.block;
    const float *G = it.G + own.k * LG, *stiff = stiff_of_sides() + own.k * ns;
    float H[most_columns + 1], diagonal = 0;
#pragma unroll
    for (int i = 0; i <= most_columns; i++) H[i] = 0;
    if (barrier) {
      if (nb > 0) diagonal = stiff[own.c] + stiff[nb + own.c];
      if (m > 0) {
#pragma unroll 6
        for (int l = 0; l < lines; l++) {
          if (!same_rows && l >= at.rows_count) break;
          const float *line = G + l * nu, *first = line + at.first_column;
          float f = stiff[2 * nb + at.rows_first + l] * line[own.c];
#pragma unroll
          for (int i = 0; i < most_columns; i += 2) {
            float2 g = pairs ? *(const float2 *)(first + i) : make_float2(first[i], i + 1 < most_columns ? first[i + 1] : 0);
            H[i] += g.x * f;
            H[i + 1] += g.y * f;
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < most_columns; i++) {
      int c = at.first_column + i;
      if (c < at.columns_end && c <= own.c && (own.free >> c & 1)) {
        int place = __popc(own.free & below(c));
        row[own.first + place] = it.own[own.f][place] + H[i] + (c == own.c ? diagonal : 0);
      }
    }
  }
  __syncwarp();
}

DEVICE void load_panel(const float *from, float (&to)[panel]) {
#pragma unroll
  for (int j = 0; j < panel; j += 4) {
    float4 v = *(const float4 *)(from + j);
    to[j] = v.x;
    to[j + 1] = v.y;
    to[j + 2] = v.z;
    to[j + 3] = v.w;
  }
}

// Factorizes the columns of a panel, those before it being done. Lanes have their last `seats` rows in registers, and all of
// them the panel's corner: eight shuffles less for each column to wait for. In the corner L has a unit diagonal, in place of
// which 1 / L_kk is kept; below it, and in the row of the right-hand side, L is Cholesky's.
template <int seats>
DEVICE void factorize_panel(int from, int total) {
  Condensed &it = condensed();
  constexpr int first_half = halves - seats;
  int base = from % 32;  // the first lane of those that have the corner's rows, as P[0]
  float P[seats][panel], C[panel][panel];
#pragma unroll
  for (int s = 0; s < seats; s++) load_panel(it.H[lane() + 32 * (first_half + s)] + from, P[s]);
#pragma unroll 8
  for (int k = 0; k < from; k++) {
    float right[panel], left[seats];
    load_panel(it.H[k] + from, right);
#pragma unroll
    for (int s = 0; s < seats; s++) left[s] = it.H[k][lane() + 32 * (first_half + s)];
#pragma unroll
    for (int s = 0; s < seats; s++)
#pragma unroll
      for (int j = 0; j < panel; j++) P[s][j] -= left[s] * right[j];
  }
#pragma unroll
  for (int j = 0; j < panel; j++)
#pragma unroll
    for (int i = j; i < panel; i++) C[i][j] = __shfl_sync(ALL, P[0][j], base + i);
  int place[seats];
  bool in_corner[seats];
#pragma unroll
  for (int s = 0; s < seats; s++) {
    place[s] = lane() + 32 * (first_half + s) - from;
    in_corner[s] = place[s] < panel && from + place[s] != total;
  }
#pragma unroll
  for (int j = 0; j < panel; j++) {
    float inverse = ratio(1, C[j][j]);
#pragma unroll
    for (int i = j + 1; i < panel; i++) {
      float by = C[i][j] * inverse;
#pragma unroll
      for (int l = i; l < panel; l++) C[l][i] -= C[l][j] * by;
#pragma unroll
      for (int s = 0; s < seats; s++) P[s][i] -= P[s][j] * by;
    }
    // A Hessian that is not positive definite must not pass for one.
    float root = C[j][j] > 0 ? rsqrtf(C[j][j]) : NOT_A_NUMBER;
#pragma unroll
    for (int s = 0; s < seats; s++) {
      float entry = P[s][j] * (in_corner[s] ? inverse : root);
      if (place[s] >= j) it.H[from + j][from + place[s]] = place[s] == j ? root : entry;
    }
  }
  __syncwarp();
}

// Factorizes the Hessian; the right-hand side's first half is left in b.
DEVICE void factorize_all(int total, float (&b)[halves]) {
  for (int from = 0; from <= total; from += panel) {
    if (from < 32) factorize_panel<halves>(from, total);
    else factorize_panel<1>(from, total);
  }
#pragma unroll
  for (int half = 0; half < halves; half++) {
    int f = lane() + 32 * half;
    b[half] = f < total ? condensed().H[f][total] : 0;
  }
}

// All lanes know what a panel's rows come to; keeps it for the lanes that have these rows.
DEVICE void keep_panel(int from, const float (&y)[panel]) {
  float *v = condensed().v + from;
  if (lane() == 0) {
    *(float4 *)v = make_float4(y[0], y[1], y[2], y[3]);
    *(float4 *)(v + 4) = make_float4(y[4], y[5], y[6], y[7]);
  }
}

DEVICE void collect_panels(int total, float (&b)[halves]) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++) {
    int row = lane() + 32 * half;
    b[half] = row < total ? condensed().v[row] : 0;
  }
  __syncwarp();
}

// b := L^-1 b.
DEVICE void solve_forth(float (&b)[halves], int total) {
  const Condensed &it = condensed();
#pragma unroll 2
  for (int from = 0; from < total; from += panel) {
    float corner[panel][panel], below[halves][panel], y[panel], mine = from < 32 ? b[0] : b[1];
#pragma unroll
    for (int i = 0; i < panel; i++) {
      y[i] = __shfl_sync(ALL, mine, from % 32 + i);
      load_panel(it.H[from + i] + from, corner[i]);
#pragma unroll
      for (int half = 0; half < halves; half++) below[half][i] = it.H[from + i][lane() + 32 * half];
    }
#pragma unroll
    for (int i = 0; i < panel; i++) {
#pragma unroll
      for (int j = i + 1; j < panel; j++) y[j] -= corner[i][j] * y[i];
      y[i] *= corner[i][i];
#pragma unroll
      for (int half = 0; half < halves; half++) b[half] -= below[half][i] * y[i];  // rows above are done with
    }
    keep_panel(from, y);
  }
  collect_panels(total, b);
}

// b := L^-T b.
DEVICE void solve_back(float (&b)[halves], int total) {
  const Condensed &it = condensed();
#pragma unroll 2
  for (int from = (total - 1) / panel * panel; from >= 0; from -= panel) {
    float corner[panel][panel], above[halves][panel], x[panel], mine = from < 32 ? b[0] : b[1];
#pragma unroll
    for (int half = 0; half < halves; half++) load_panel(it.H[lane() + 32 * half] + from, above[half]);
#pragma unroll
    for (int i = 0; i < panel; i++) {
      load_panel(it.H[from + i] + from, corner[i]);
      x[i] = corner[i][i] * __shfl_sync(ALL, mine, from % 32 + i);
    }
#pragma unroll
    for (int i = panel - 1; i >= 0; i--) {
#pragma unroll
      for (int j = 0; j < i; j++) x[j] -= corner[j][i] * x[i];
#pragma unroll
      for (int half = 0; half < halves; half++) b[half] -= above[half][i] * x[i];  // rows below are done with
    }
    keep_panel(from, x);
  }
  collect_panels(total, b);
}

// The Hessian without the barrier, which takes the place of the other one, times Condensed::v, for each seat.
DEVICE void times_hessian(const Seat (&seat)[halves], int total, float (&product)[halves]) {
  Condensed &it = condensed();
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    for (int i = 0; i < own.count && own.first + i <= own.f; i++) it.H[own.f][own.first + i] = it.own[own.f][i];
  }
  __syncwarp();
  float sums[halves][2] = {{0, 0}, {0, 0}};
#pragma unroll
  for (int half = 0; half < halves; half++) {
    int f = seat[half].f;
#pragma unroll
    for (int first = 0; first < rows_of_H; first += 32) {
#pragma unroll 4
      for (int c = first; c < first + 32; c += 4) {
        if (c >= total) break;  // what follows in the last four rows has zeros for the way
        float4 v = *(const float4 *)(it.v + c), row = *(const float4 *)(it.H[f] + c);
        float by[4] = {v.x, v.y, v.z, v.w}, left[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          // Wherever the half decides which triangle it is, only one of them is read.
          float entry = first / 32 < half || (first / 32 == half && c + i <= f) ? left[i] : it.H[c + i][f];
          sums[half][i % 2] += entry * by[i];
        }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < halves; half++) product[half] = seat[half].taken ? sums[half][0] + sums[half][1] : 0;
}
