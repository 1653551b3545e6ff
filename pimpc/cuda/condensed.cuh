// Newton steps of short horizons: the states are eliminated once, and each Hessian of the free inputs, in one order over all
// stages, is factorized as one dense matrix. Only that factorization goes from column to column; all else is done for all
// stages at once, so that a warp seldom waits.
//
// Lane l has the rows l and l + 32: its two seats. The row after the last free input is that of the right-hand side: what
// the factorization leaves of it is the solution's first half.

constexpr int rows_of_H = 64, halves = rows_of_H / 32, panel = 8;
constexpr int most_free = rows_of_H - 1;
constexpr int LH = rows_of_H + 4;  // 16 bytes more, so that eight lanes read 16 bytes each of eight rows at once
constexpr bool forces_in_work = 2 * N * ns <= n * LD;

struct Condensed {
  float H[rows_of_H][LH];    // on and below the diagonal the Hessian, above it L', see `factorize_panel`
  float own[most_free][nu];  // of the Hessian without the barrier: the block of the inputs of the same stage
  __align__(16) float G[N * stride_G];
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

// Copies numbers to the chip; they are there after `arrive`.
DEVICE void bring(float *to, const float *from, int count) {
  for (int i = lane(); i < count; i += 32) {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((unsigned)__cvta_generic_to_shared(to + i)), "l"(from + i));
#else
    to[i] = from[i];
#endif
  }
}

DEVICE void arrive() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  __syncwarp();
}

// The problem on the chip, all of it asked for before anything is waited for.
DEVICE Problem bring_problem(const Problem &from) {
  Condensed &it = condensed();
  bring(it.A, from.A, N * nx * nx);
  bring(it.B, from.B, N * nx * nu);
  bring(it.e, from.e, N * nx);
  bring(it.x_ref, from.x_ref, N * nx);
  bring(it.Q, from.Q, N * nx);
  bring(it.u_ref, from.u_ref, N * nu);
  bring(it.R, from.R, N * nu);
  bring(it.S, from.S, N * nu);
  if (m > 0) {
    bring(it.h, from.h, N * m);
    for (int k = 0; k < N; k++) bring(it.G + k * stride_G, from.G + k * lines * nu, lines * nu);
  }
  if (has_u_min) bring(it.u_min, from.u_min, N * nu);
  if (has_u_max) bring(it.u_max, from.u_max, N * nu);
  arrive();
  return {it.A, it.B, it.e, from.x0, from.u_prev, it.x_ref, it.u_ref, it.Q, it.R, it.S, it.G, it.h, it.u_min, it.u_max,
          nullptr, nullptr, nullptr};
}
