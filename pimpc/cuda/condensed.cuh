// Newton steps of short horizons: the states are eliminated once, and each Hessian of the free inputs, in one order over all
// stages, is factorized as one dense matrix. Only that factorization goes from column to column; all else is done for all
// stages at once, so that a warp seldom waits.
//
// Lane l has the rows l, l + 32 and so on: its seats. The row after the last free input is that of the right-hand side: what
// the factorization leaves of it is the solution's first half.
//
// What counts is how many warps fit on a multiprocessor. So the same place has the problem's stages, the Hessian or its
// factors, whichever is needed, and the Hessian without the barrier waits in the other memory; of G and of the sides nothing
// is kept but what touches free inputs.

constexpr int panel = 8, most_lines = tall > 0 ? tall : 1;

struct Stages {
  __align__(16) float A[N * nx * nx];
  __align__(16) float B[N * nx * nu];
  __align__(16) float e[N * nx];
  __align__(16) float x_ref[N * nx];
  __align__(16) float Q[N * nx];
  __align__(16) float u_ref[N * nu];
  __align__(16) float R[N * nu];
  __align__(16) float S[N * nu];
};

struct __align__(16) Condensed {
  union {
    Stages stages;
    float H[packed_H];                    // see `row_of`
    float ends[ns > 0 ? 2 * N * ns : 1];  // see `Tables::forces`
  };
  __align__(16) float G[most_free * tall + 4];  // for each free input its column of the block it is in, and zeros
  short spot[rows_of_H];                         // k nu + c of each free input
  short first_free[most_blocks], free_count[most_blocks];  // inputs of the blocks that have any
};

static_assert(sizeof(Condensed) <= 4 * room_condensed, "Python has counted wrongly");
static_assert(nx <= panel + 4, "a costate is kept in a row of the last panel");

// Numbers of the free inputs, in Work::G as long as nobody needs that of a stage.
DEVICE float *step_of_inputs() { return work.G; }
DEVICE float *vector_of_inputs() { return work.G + 32 * seats; }  // the way from the start, or a solution in the making

DEVICE Condensed &condensed() { return *(Condensed *)condensed_here; }

// Row r of a lower triangle's transpose, to be indexed by column: rows are kept from their panel's first column on, and four
// numbers longer than that, so that eight lanes read 16 bytes each of a panel's eight rows at once. Of the Hessian these are
// the columns on and below its diagonal.
DEVICE int panel_of(int r) { return r & -panel; }  // its first row
DEVICE int stride_at(int r) { return rows_of_H + 4 - panel_of(r); }
DEVICE float *row_of(int r) {
  int first = panel_of(r);
  return condensed().H + first * (rows_of_H + 8 - first / 2) + (r - first) * stride_at(r) - first;
}

// What a lane knows of one of its rows, the Hessian's row and column `f`.
struct Seat {
  bool taken;
  int f, spot, k, c;  // input c of stage k
  int first, rows;    // of its block: the first free input, and where its rows are among the sides
  float *row;         // see `row_of`
};

DEVICE int count_free(const Problem &of) {
  int count = 0;
  for (int first = 0; first < N * nu; first += 32) {
    int i = first + lane(), k = i / nu;
    count += __popc(__ballot_sync(ALL, i < N * nu && !is_fixed(of, k, i - k * nu)));
  }
  return count;
}

// Lists the free inputs, and gives places to all sides that touch any; says whether there is room for them.
DEVICE bool list_free(const Problem &of, const Tables &table, int total) {
  Condensed &it = condensed();
  int c = lane(), first = 0, used = 0;
  bool room = true;
  for (int k = 0; k < N; k++) {
    bool moves = c < nu && !is_fixed(of, k, c);
    unsigned free = __ballot_sync(ALL, moves);
    if (moves) it.spot[first + __popc(free & below(c))] = k * nu + c;
    if (c == 0) {
      table.free()[k] = free;
      work.first_free[k] = first;
    }
    int column = 0;
#pragma unroll
    for (int b = 0; b < parts; b++) {
      int end = blocks > 0 ? column + block_columns[b] : nu, before = __popc(free & below(column));
      int count = __popc(free & (end < 32 ? below(end) : ALL)) - before;
      bool has = m > 0 && count > 0;
      if (has && used == most_blocks) room = has = false;
      if (c == 0) work.first_row[k * parts + b] = has ? used * tall : -1;
      if (c == 0 && has) {
        it.first_free[used] = first + before;
        it.free_count[used] = count;
      }
      used += has;
      column = end;
    }
    first += __popc(free);
  }
  if (c == 0) {
    work.lower_sides = used * tall;
    work.upper_sides = used * tall + (total + 3) / 4 * 4;
  }
  __syncwarp();
  return room;
}

// The places that have been given.
DEVICE int count_places(int total) { return work.lower_sides + (nb > 0 ? (total + 3) / 4 * 8 : 0); }

DEVICE Seat seat_of(const Tables &table, int s, int total) {
  Seat it;
  it.f = lane() + 32 * s;
  it.taken = it.f < total;
  it.spot = it.taken ? condensed().spot[it.f] : 0;
  it.k = it.spot / nu;
  it.c = it.spot - it.k * nu;
  int column = 0, row = work.first_row[it.k * parts];
#pragma unroll
  for (int b = 0, next = 0; b < blocks; b++) {
    if (it.c >= next) {
      column = next;
      row = work.first_row[it.k * parts + b];
    }
    next += block_columns[b];
  }
  unsigned free = table.free()[it.k];
  it.first = work.first_free[it.k] + __popc(free & below(column));
  it.rows = row > 0 ? row : 0;
  it.row = row_of(it.f < rows_of_H ? it.f : rows_of_H - 1);
  return it;
}

// Copies numbers to the chip; they are there after `arrive`.
template <int wide>
DEVICE void bring_some(float *to, const float *from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // no such copies: at once, as one of them might be
#pragma unroll
  for (int i = 0; i < wide; i++) to[i] = from[i];
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from),
               "n"(4 * wide) : "memory");
#else
  copy_later(to, from, wide);
#endif
}

// Both places are as aligned as `count` says.
template <int count>
DEVICE void bring(float *to, const float *from) {
  constexpr int wide = count % 4 == 0 ? 4 : count % 2 == 0 ? 2 : 1;
#pragma unroll 4
  for (int i = lane() * wide; i < count; i += 32 * wide) bring_some<wide>(to + i, from + i);
}

DEVICE void arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#elif !defined(__CUDA_ARCH__)
  finish_copies();
#endif
  __syncwarp();
}

// Brings Condensed::G; it is there after `arrive`.
DEVICE void gather_columns(const Problem &of, int total) {
  float *to = condensed().G;
  for (int i = lane(); i < total * tall; i += 32) {
    int f = i / most_lines, l = i - f * most_lines, spot = condensed().spot[f], k = spot / nu;
    if (l < lines) bring_some<1>(to + i, of.G + (k * lines + l) * nu + spot - k * nu);
    else to[i] = 0;
  }
}

// Where a problem is on the chip once it is brought. Bounds of inputs are in the place of the first two lists if there is room.
// They are read while Work::E is in use.
constexpr bool first_apart = lists_in_work < 1 || N * nu <= n * LD;
constexpr bool second_apart = lists_in_work < 2 || room_of_sides + N * nu <= n * LD;
constexpr bool bounds_in_lists = N * nu <= room_of_sides && first_apart && second_apart;

DEVICE Problem problem_on_chip(const Problem &given, const Tables &table) {
  const Stages &of = condensed().stages;
  const float *u_min = bounds_in_lists ? table.list(0) : given.u_min, *u_max = bounds_in_lists ? table.list(1) : given.u_max;
  return {of.A, of.B, of.e, given.x0, given.u_prev, of.x_ref, of.u_ref, of.Q, of.R, of.S, given.G, given.h, u_min, u_max,
          nullptr, nullptr, nullptr};
}

// What makes place for the Hessian.
DEVICE void bring_stages(const Problem &from, const Tables &table) {
  Stages &it = condensed().stages;
  __syncwarp();
  bring<N * nx * nx>(it.A, from.A);
  bring<N * nx * nu>(it.B, from.B);
  bring<N * nx>(it.e, from.e);
  bring<N * nx>(it.x_ref, from.x_ref);
  bring<N * nx>(it.Q, from.Q);
  bring<N * nu>(it.u_ref, from.u_ref);
  bring<N * nu>(it.R, from.R);
  bring<N * nu>(it.S, from.S);
  if (bounds_in_lists && has_u_min) bring<N * nu>(table.list(0), from.u_min);
  if (bounds_in_lists && has_u_max) bring<N * nu>(table.list(1), from.u_max);
  arrive();
}

// Numbers of a panel, next to each other.
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

// The Hessian without the barrier, to the other memory and back.
DEVICE void send_hessian(const Tables &table) {
  __syncwarp();
  for (int i = 4 * lane(); i < packed_H; i += 128) *(float4 *)(table.far + i) = *(const float4 *)(condensed().H + i);
  __syncwarp();
}

DEVICE void ask_for_hessian(const Tables &table) {
  __syncwarp();
  bring<packed_H>(condensed().H, table.far);
}
