// The recursions of `pimpc.riccati`. What stays of a stage is its swept Hessian: with H the Hessian in the free inputs, F
// its block with the states, and L that of the states,
//
//     T = [[-1/H, F/H], [F'/H, L - F'F/H]],
//
// which gives the value of the stage before, and whose first rows serve both directions of a solve. Inputs that are not
// free have rows and columns of zeros there.
//
// With E = [[I, 0], [B_k, A_k]] and P the Hessian of the next stage's value in (u_k, x_{k+1}), a stage's Hessian is E' P E
// and its own. It is a matrix of 8 W rows and columns: the free inputs, from 0 on, and the states, from slots<W> on, each
// sit in one, and as far as there is room the inputs that are not free, whose rows are those of the identity. Lane (g, h) has rows 2 W g, ... and columns W h, ... in registers.

template <int W>
constexpr int slots = nu < 8 * W - nx ? nu : 8 * W - nx;  // for inputs

constexpr int widest = (n + 7) / 8, narrow = (nu / 2 + nx + 7) / 8;

// As narrow a matrix as the free inputs allow.
DEVICE bool are_few(unsigned free) { return narrow < widest && __popc(free) <= 8 * narrow - nx; }

template <int W>
struct Tile {
  float M[2 * W][W];
};

template <int W>
DEVICE void load_tile(const float (*X)[LD], Tile<W> &tile) {
#pragma unroll
  for (int i = 0; i < 2 * W; i++) load<W>(&X[lane() / 8 * 2 * W + i][lane() % 8 * W], tile.M[i]);
}

template <int W>
DEVICE void store_tile(float (*X)[LD], const Tile<W> &tile) {
#pragma unroll
  for (int i = 0; i < 2 * W; i++) store<W>(&X[lane() / 8 * 2 * W + i][lane() % 8 * W], tile.M[i]);
}

// M += L' R for nx rows.
template <int W>
DEVICE void multiply(Tile<W> &tile, const float (*L)[LD], const float (*R)[LD]) {
#pragma unroll 3
  for (int j = 0; j < nx; j++) {
    float left[2 * W], right[W];
    load<2 * W>(&L[j][lane() / 8 * 2 * W], left);
    load<W>(&R[j][lane() % 8 * W], right);
#pragma unroll
    for (int i = 0; i < 2 * W; i++)
#pragma unroll
      for (int c = 0; c < W; c++) tile.M[i][c] += left[i] * right[c];
  }
}

// Sweeps a row and its column (Goodnight 1979), row i of those that lanes g = group have.
template <int W, int i>
DEVICE void pivot(Tile<W> &tile, int group) {
  int g = lane() / 8, h = lane() % 8;
  int from = group * 8, own_h = group * 2 + i / W;  // lanes from + h have the pivot's row, lanes own_h its column
  float left[2 * W], right[W], pivot = __shfl_sync(ALL, tile.M[i][i % W], from + own_h);
#pragma unroll
  for (int r = 0; r < 2 * W; r++) left[r] = __shfl_sync(ALL, tile.M[i][r % W], from + 2 * g + r / W);
#pragma unroll
  for (int c = 0; c < W; c++) right[c] = __shfl_sync(ALL, tile.M[i][c], from + h);
  // A Hessian that is not positive definite must not pass for one.
  float inverse = pivot > 0 ? ratio(1, pivot) : NOT_A_NUMBER;
  // The pivot's own row and column start anew.
  if (g == group) {
    left[i] = -1;
#pragma unroll
    for (int c = 0; c < W; c++) tile.M[i][c] = 0;
  }
  if (h == own_h) {
    right[i % W] = -1;
#pragma unroll
    for (int r = 0; r < 2 * W; r++) tile.M[r][i % W] = 0;
  }
#pragma unroll
  for (int c = 0; c < W; c++) right[c] *= inverse;
#pragma unroll
  for (int r = 0; r < 2 * W; r++)
#pragma unroll
    for (int c = 0; c < W; c++) tile.M[r][c] -= left[r] * right[c];
}

template <int W, int i, int end>
DEVICE void pivots(Tile<W> &tile, int group) {
  if constexpr (i < end) {
    pivot<W, i>(tile, group);
    pivots<W, i + 1, end>(tile, group);
  }
}

// Sweeps the rows of the inputs.
template <int W>
DEVICE void sweep(Tile<W> &tile) {
  constexpr int groups = slots<W> / (2 * W), rest = slots<W> % (2 * W);
#pragma unroll (W <= 2 ? 4 : 1)
  for (int group = 0; group < groups; group++) pivots<W, 0, 2 * W>(tile, group);
  pivots<W, 0, rest>(tile, groups);
}

// Who sits where in the matrix, of what a lane has of it. For G'DG, which is small, four lanes share what one of the first
// has (`gram`), each with a quarter of the rows of G.
struct Seats {
  unsigned free = ~0u;                  // the inputs that have a seat
  int row[2 * widest], column[widest];  // where they are in T
  unsigned in_T;                        // a bit for each entry that T has
  int gram_row[2 * widest], gram_column[widest], stiff[widest];  // stiff: where the rows of a column's block are in Work::stiff
  unsigned same_block;                                  // a bit for each entry of G'DG that the lane keeps
};

// Where a column sits; inputs that are not free come after those that are, as far as there are seats for inputs.
template <int W>
DEVICE int seat_of(unsigned free, int c) {
  if (c >= nu) return slots<W> + c - nu;
  unsigned before = free & ((1u << c) - 1);
  return free >> c & 1 ? __popc(before) : __popc(free) + c - __popc(before);
}

template <int W>
constexpr int quarters = slots<W> <= 4 * W ? 4 : 1;

// Moves what Work::X has of the inputs that were free to the seats of those that are.
template <int W>
DEVICE void change_seats(Work &work, unsigned before, unsigned free) {
  int c = lane() < n ? lane() : n - 1;
  auto sat = [&](int c) { return are_few(before) ? seat_of<narrow>(before, c) : seat_of<widest>(before, c); };
  auto has = [](unsigned free, int c) { return c >= nu || (free >> c & 1); };
  float column[n];
  int from = sat(c);
  __syncwarp();
#pragma unroll
  for (int r = 0; r < n; r++) column[r] = has(before, c) && has(before, r) ? work.X[sat(r)][from] : 0;
  __syncwarp();
  if (has(free, c)) {
#pragma unroll
    for (int r = 0; r < n; r++)
      if (has(free, r)) work.X[seat_of<W>(free, r)][seat_of<W>(free, c)] = column[r];
  }
  __syncwarp();
}

template <int W>
DEVICE void take_seats(Work &work, Seats &seats, unsigned free) {
  int c = lane(), g = c / 8, h = c % 8, count = __popc(free);
  __syncwarp();
  if (c < n && (c >= nu || (free >> c & 1))) work.order[seat_of<W>(free, c)] = c;
  __syncwarp();
  seats.free = free;
  bool split = quarters<W> == 4;
  int gram_g = split ? g % 2 : g, gram_h = split ? h % 4 : h, block[widest];
#pragma unroll
  for (int j = 0; j < W; j++) {
    seats.column[j] = work.order[h * W + j];
    bool input = gram_h * W + j < count;
    seats.gram_column[j] = input ? work.order[gram_h * W + j] : 0;
    Block of = block_of(seats.gram_column[j]);
    seats.stiff[j] = 2 * nb + of.row;
    block[j] = input && gram_g == g && gram_h == h ? of.column : -1;
  }
  seats.same_block = seats.in_T = 0;
#pragma unroll
  for (int i = 0; i < 2 * W; i++) {
    seats.row[i] = work.order[g * 2 * W + i] * n;
    bool input = gram_g * 2 * W + i < count;
    seats.gram_row[i] = input ? work.order[gram_g * 2 * W + i] : 0;
#pragma unroll
    for (int j = 0; j < W; j++) {
      if (input && block_of(seats.gram_row[i]).column == block[j]) seats.same_block |= 1u << (i * W + j);
      bool taken = h * W + j < count || (h * W + j >= slots<W> && h * W + j < slots<W> + nx);
      if (g * 2 * W + i < count && taken) seats.in_T |= 1u << (i * W + j);
    }
  }
}

// Adds G' D G, D = Work::stiff of the rows.
template <int W>
DEVICE void gram(Work &work, const Seats &seats, Tile<W> &tile) {
  if (m == 0) return;
  Tile<W> H = {};
  int first = quarters<W> == 4 ? lane() / 16 * 2 + lane() / 4 % 2 : 0;
  constexpr int turns = (lines + quarters<W> - 1) / quarters<W>;
#pragma unroll 4
  for (int turn = 0; turn < turns; turn++) {
    int l = turn * quarters<W> + first;
    if (lines % quarters<W> != 0 && l >= lines) continue;
    float left[2 * W], right[W];
#pragma unroll
    for (int i = 0; i < 2 * W; i++) left[i] = work.G[l * nu + seats.gram_row[i]];
#pragma unroll
    for (int j = 0; j < W; j++) {
      int at = seats.stiff[j] + l;  // where a block has fewer lines, they are zero
      right[j] = work.G[l * nu + seats.gram_column[j]] * work.stiff[same_rows || at < ns ? at : ns - 1];
    }
#pragma unroll
    for (int i = 0; i < 2 * W; i++)
#pragma unroll
      for (int j = 0; j < W; j++) H.M[i][j] += left[i] * right[j];
  }
#pragma unroll
  for (int i = 0; i < 2 * W; i++)
#pragma unroll
    for (int j = 0; j < W; j++) {
      float total = H.M[i][j];
      if (quarters<W> == 4) {
        total += __shfl_xor_sync(ALL, total, 16);
        total += __shfl_xor_sync(ALL, total, 4);
      }
      if (seats.same_block >> (i * W + j) & 1) tile.M[i][j] += total;
    }
}

// The swept Hessian of a stage from that of the next one, which Work::X has in the seats of the inputs free there.
//
// free, free_next: bits of the inputs that may move in this stage and in the next. ba: column `lane` of [B_k, A_k]. diagonal: column `lane` of the stage's own
// Hessian in (u_k, x_{k+1}); that of G'DG comes from `gram`. rate: column `lane` of the next stage's. T: where the first rows come to lie
// in Work::T, all columns in place.
template <int W>
DEVICE void factorize(Work &work, Seats &seats, unsigned free, unsigned free_next, const float (&ba)[nx], float diagonal, float rate, bool barrier, bool even,
                      int T) {
  int c = lane(), g = c / 8, h = c % 8;
  constexpr int first_state = slots<W>;
  if (free_next != free) change_seats<W>(work, free_next, free);
  if (seats.free != free) take_seats<W>(work, seats, free);
  int seat = seat_of<W>(free, c);
  if (c < n && (c >= nu || seat < first_state)) {
    // An input that is not free moves nothing and has no part in anything.
    bool moves = c >= nu || (free >> c & 1);
    work.u[seat] = c >= nu ? 1 : moves ? rate : 0;
    work.w[seat] = c >= nu ? 0 : moves ? rate + diagonal : 1;
    if (c >= nu) work.X[seat][seat] += diagonal;
#pragma unroll
    for (int j = 0; j < nx; j++) work.E[j][seat] = moves ? ba[j] : 0;
  }
  __syncwarp();
  // P E: its rows of the inputs stay, those of the states are multiplied by E once more.
  Tile<W> tile;
  float rates[2 * W], right[W];
  load_tile<W>(work.X, tile);
  load<W>(work.u + h * W, right);
#pragma unroll
  for (int j = 0; j < W; j++) {
    if (h * W + j >= first_state) right[j] = 0;
#pragma unroll
    for (int i = 0; i < 2 * W; i++) tile.M[i][j] *= right[j];
  }
  multiply<W>(tile, work.X + first_state, work.E);
  load<2 * W>(work.u + g * 2 * W, rates);
#pragma unroll
  for (int i = 0; i < 2 * W; i++)
#pragma unroll
    for (int j = 0; j < W; j++) tile.M[i][j] *= rates[i];
  __syncwarp();
  store_tile<W>(work.X, tile);
  load<W>(work.w + h * W, right);
#pragma unroll
  for (int j = 0; j < W; j++) {
#pragma unroll
    for (int i = 0; i < 2 * W; i++)
      if (g * 2 * W + i >= first_state) tile.M[i][j] = 0;
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (h == 2 * g + half) tile.M[half * W + j][j] += right[j];
  }
  __syncwarp();
  multiply<W>(tile, work.E, work.X + first_state);
  if (barrier) gram<W>(work, seats, tile);
  sweep<W>(tile);
  __syncwarp();
  if (moved_T > 0)
    for (int i = c; i < nu * n; i += 32) work.T[i] = 0;
  store_tile<W>(work.X, tile);
  __syncwarp();
  if (even) {
    // What rounding makes of the two halves must not drift apart from stage to stage.
#pragma unroll
    for (int i = 0; i < 2 * W; i++)
#pragma unroll
      for (int j = 0; j < W; j++) tile.M[i][j] = 0.5f * (tile.M[i][j] + work.X[h * W + j][g * 2 * W + i]);
    __syncwarp();
    store_tile<W>(work.X, tile);
  }
#pragma unroll
  for (int i = 0; i < 2 * W; i++) {
#pragma unroll
    for (int j = 0; j < W; j++) {
      int entry = T + seats.row[i] + seats.column[j];
      if (seats.in_T >> (i * W + j) & 1) work.T[entry] = tile.M[i][j];
    }
  }
  __syncwarp();
}

DEVICE void factorize_stage(Work &work, Seats &seats, unsigned free, unsigned free_next, const float (&ba)[nx], float diagonal,
                            float rate, bool barrier, bool even, int T) {
  if (are_few(free)) factorize<narrow>(work, seats, free, free_next, ba, diagonal, rate, barrier, even, T);
  else factorize<widest>(work, seats, free, free_next, ba, diagonal, rate, barrier, even, T);
}

// One stage of the backward pass of a linear term: p is that of the next stage's value in (du_k, dx_{k+1}), slope the
// stage's own. Returns that of the value before and adds what the minimum is lower by to `saved`; t: swept.
DEVICE float linear_before(Work &work, const float (&ba)[nx], const float *T, float rate, float p, float slope, float &t, float &saved) {
  int c = lane();
  p += slope;
  work.v[c] = p;
  __syncwarp();
  float m_c = c < nu ? p : 0, vector[nu > nx ? nu : nx];
  load_vector<nx>(work.v + nu, vector);
#pragma unroll
  for (int j = 0; j < nx; j++) m_c += vector[j] * ba[j];
  work.u[c] = m_c;
  __syncwarp();
  t = c < nu ? 0 : m_c;
  const float *column = T + (c < n ? c : 0);
  load_vector<nu>(work.u, vector);
#pragma unroll
  for (int i = 0; i < nu; i++) t -= vector[i] * column[i * n];
  if (c < nu) saved += 0.5f * m_c * t;
  return c < nu ? rate * t : t;
}

// One stage of the forward pass: (du_k, dx_{k+1}) from (du_{k-1}, dx_k). Leaves du_k in Work::v.
DEVICE float forward(Work &work, const Row &row, const float *T, float t, float rate, float before) {
  int c = lane();
  work.u[c] = c < nu ? rate * before : c < n ? before : 0;
  __syncwarp();
  float u = -(t + product<nu, n, n, 32>(T, work.u));
  float next = ahead(work, row, c < nu ? u : before);
  if (c < nu) work.v[c] = u;
  __syncwarp();
  return c < nu ? u : next;
}
