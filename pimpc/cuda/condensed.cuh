// Newton steps of short horizons: the states are eliminated once, and each Hessian of the free inputs, in one order over all
// stages, is factorized as one dense matrix. Only that factorization goes from column to column; all else is done for all
// stages at once, so that a warp seldom waits.
//
// Lane l has the rows l, l + 32 and so on: its seats. The row after the last free input is that of the right-hand side: what
// the factorization leaves of it is the solution's first half.
//
// What counts is how many warps fit on a multiprocessor. So the same place has the problem's stages, the Hessian or its
// factors, whichever is needed; the Hessian without the barrier waits in the other memory.

constexpr int panel = 8, seats = (rows_of_H + 31) / 32;
constexpr int most_free = rows_of_H - 1;
constexpr int all_sides = N * ns;
// The lists of sides that have room in Work::X and Work::E, one behind the other: no stage is at hand once there are sides.
constexpr int lists = 4, room_in_work = (n + nx) * LD;
constexpr int lists_in_work = all_sides == 0 || lists * all_sides <= room_in_work ? lists : room_in_work / all_sides;
constexpr bool place_in_work = lists * all_sides + (all_sides + 1) / 2 <= room_in_work;

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
    float H[packed_H];  // see `row_of`
  };
  __align__(16) float G[N * stride_G + 4];
  __align__(16) float h[N * m + 4];
  __align__(16) float u_min[bounds_inputs && has_u_min ? N * nu : 4], u_max[bounds_inputs && has_u_max ? N * nu : 4];
  __align__(16) float step[N * nu + 4];
  __align__(16) float v[32 * seats];  // the way from the start, or a solution in the making
  float lists_here[(lists - lists_in_work) * all_sides + 1];
  short place_here[place_in_work ? 1 : all_sides + 1];
  short spot[rows_of_H];  // k nu + c of each free input
};

static_assert(sizeof(Condensed) <= 4 * room_condensed, "Python has counted wrongly");
static_assert(nx <= panel + 4, "a costate is kept in a row of the last panel");

DEVICE Condensed &condensed() { return *(Condensed *)condensed_here; }

// The lists, one number for each side: what they push with and how stiff they are, ns for each stage; by how much they leave
// their limits, by how much more with a step, and k ns + side, one side after the other.
DEVICE float *list(int i) {
  return i < lists_in_work ? &work.X[0][0] + i * all_sides : condensed().lists_here + (i - lists_in_work) * all_sides;
}
DEVICE float *push_of_sides() { return list(0); }
DEVICE float *stiff_of_sides() { return list(1); }
DEVICE float *excess_of_sides() { return list(2); }
DEVICE float *climb_of_sides() { return list(3); }
DEVICE short *place_of_sides() {
  return place_in_work ? (short *)(&work.X[0][0] + lists * all_sides) : condensed().place_here;
}

// Row r of a lower triangle's transpose, to be indexed by column: rows are kept from their panel's first column on, and four
// numbers longer than that, so that eight lanes read 16 bytes each of a panel's eight rows at once. Of the Hessian these are
// the columns on and below its diagonal.
DEVICE int panel_of(int r) { return r & -panel; }  // its first row
DEVICE int stride_at(int r) { return rows_of_H + 4 - panel_of(r); }
DEVICE float *row_of(int r) {
  int first = panel_of(r);
  return condensed().H + first * (rows_of_H + 8 - first / 2) + (r - first) * stride_at(r) - first;
}

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
  int first;
  Block block;
  float *row;  // see `row_of`
};

DEVICE int count_free(const Problem &of) {
  int count = 0;
  for (int first = 0; first < N * nu; first += 32) {
    int i = first + lane(), k = i / nu;
    count += __popc(__ballot_sync(ALL, i < N * nu && !is_fixed(of, k, i - k * nu)));
  }
  return count;
}

// Lists the free inputs.
DEVICE void list_free(const Tables &table) {
  int c = lane(), total = 0;
  for (int k = 0; k < N; k++) {
    unsigned free = table.free()[k];
    if (c < nu && (free >> c & 1)) condensed().spot[total + __popc(free & below(c))] = k * nu + c;
    total += __popc(free);
  }
  __syncwarp();
}

DEVICE Seat seat_of(const Tables &table, int s, int total) {
  Seat it;
  it.f = lane() + 32 * s;
  it.taken = it.f < total;
  it.spot = it.taken ? condensed().spot[it.f] : 0;
  it.k = it.spot / nu;
  it.c = it.spot - it.k * nu;
  it.free = table.free()[it.k];
  it.first = it.f - __popc(it.free & below(it.c));
  it.block = block_of(it.c);
  it.row = row_of(it.f < rows_of_H ? it.f : rows_of_H - 1);
  return it;
}

// Copies numbers to the chip; they are there after `arrive`. Both places are as aligned as `count` says.
template <int count>
DEVICE void bring(float *to, const float *from) {
  constexpr int wide = count % 4 == 0 ? 4 : count % 2 == 0 ? 2 : 1;
#pragma unroll 4
  for (int i = lane() * wide; i < count; i += 32 * wide) {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"((unsigned)__cvta_generic_to_shared(to + i)),
                 "l"(from + i), "n"(4 * wide) : "memory");
#else
#pragma unroll
    for (int j = 0; j < wide; j++) to[i + j] = from[i + j];
#endif
  }
}

DEVICE void arrive() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  __syncwarp();
}

// Where a problem is on the chip once it is brought. Bounds that are pins are needed before there are slacks and forces, in
// the place of which they are if there is room; of what `bring_stages` brings, only they and the stages are ever lost.
constexpr bool pins_in_tables = !bounds_inputs && nu <= ns;

DEVICE Problem problem_on_chip(const Problem &given, const Tables &table) {
  Condensed &it = condensed();
  const Stages &of = it.stages;
  const float *u_min = bounds_inputs ? it.u_min : pins_in_tables ? table.s() : given.u_min;
  const float *u_max = bounds_inputs ? it.u_max : pins_in_tables ? table.z() : given.u_max;
  return {of.A, of.B, of.e, given.x0, given.u_prev, of.x_ref, of.u_ref, of.Q, of.R, of.S, it.G, it.h, u_min, u_max,
          nullptr, nullptr, nullptr};
}

// What of a problem stays on the chip.
DEVICE void bring_sides(const Problem &from) {
  Condensed &it = condensed();
  if (m > 0) {
    bring<N * m>(it.h, from.h);
    for (int k = 0; k < N; k++) bring<lines * nu>(it.G + k * stride_G, from.G + k * lines * nu);
  }
  if (bounds_inputs && has_u_min) bring<N * nu>(it.u_min, from.u_min);
  if (bounds_inputs && has_u_max) bring<N * nu>(it.u_max, from.u_max);
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
  if (pins_in_tables && has_u_min) bring<N * nu>(table.s(), from.u_min);
  if (pins_in_tables && has_u_max) bring<N * nu>(table.z(), from.u_max);
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
