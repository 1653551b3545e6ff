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
constexpr bool condenses = rows_of_H > 0;       // see `condensed.cuh`
constexpr int packed_H = rows_of_H * (rows_of_H / 2 + 8);
constexpr int parts = blocks > 0 ? blocks : 1;  // of G, which is one if no blocks are declared
constexpr bool pairs = most_columns % 2 == 0 && nu % 2 == 0 && all_even;  // G may be read two columns at a time

constexpr int seats = (rows_of_H + 31) / 32;    // see `condensed.cuh`
constexpr int tall = (lines + 3) / 4 * 4;       // how many places a block's rows have there
constexpr int least_G = lines * nu > 64 * seats ? lines * nu : 64 * seats, room_G = least_G > 0 ? (least_G + 3) / 4 * 4 : 4;

struct __align__(16) Work {
  float X[n][LD];                   // see `riccati.cuh`
  float E[nx][LD];                  // rows of [B_k, A_k], the columns as they are or in slots
  float G[room_G];                  // of different blocks side by side; see also `step_of_inputs`
  float u[32], v[32], w[32];
  short first_row[condenses ? N * parts : 1], first_free[condenses ? N : 1];  // see `place_of`
  int lower_sides, upper_sides;
  float P_xx[condenses ? 1 : nx][nx];
  float stiff[ns > 0 && !condenses ? ns : 1], push[ns > 0 && !condenses ? ns : 1];
};

__shared__ Work work;

DEVICE int lane() { return threadIdx.x; }

// One problem, its stages one after the other.
struct Problem {
  const float *A, *B, *e, *x0, *u_prev, *x_ref, *u_ref, *Q, *R, *S, *G, *h, *u_min, *u_max, *x_min, *x_max, *give_x;
};

// What the passes over the stages leave for each other. A stage's T, nu x n, the first rows of its swept Hessian, is in
// `T_here` while it is worked on, and stays there if there is room for all; and so do the other tables in `rest_here`.
// One that judges needs plans alone, and no T once it is done with its stage.
//
// A kernel that condenses has lists of its sides there, `room_of_sides` numbers each; six of them lie in Work::X and Work::E as
// far as there is room, for no stage is at hand once there are sides.
constexpr int table_T = N * nu * n;
constexpr bool keeps_T = tables_on_chip >= 1 && !judges;
constexpr int of_sides = judges ? 0 : N * ns, at_s = (N + 1) * n;
constexpr int at_z = at_s + of_sides, at_delta = at_z + of_sides, at_change = at_delta + of_sides;
constexpr int at_at = at_change + of_sides, at_free = judges ? at_at : at_at + N * m, at_t = at_free + N;
constexpr bool move_in_T = nu * n >= n + m;  // a stage's T is done with when its step is known
constexpr int at_climb = at_t + N * nu, at_move = at_climb + (move_in_T ? 0 : N * m);
constexpr int end_of_tables = at_move + (move_in_T ? 0 : N * n);

constexpr int lists = 6, room_of_sides = most_sides / 4 * 4 + 4;  // with one that stands for all that are none
constexpr int lists_in_work = lists * room_of_sides <= (n + nx) * LD ? lists : (n + nx) * LD / room_of_sides;
constexpr int at_lists = ((N + 1) * n + 3) / 4 * 4, end_of_lists = at_lists + (2 + lists - lists_in_work) * room_of_sides;

constexpr int table_rest = ((condenses ? end_of_lists + N : judges ? at_t : end_of_tables) + 3) / 4 * 4;
constexpr int room_T = (keeps_T ? table_T : nu * n) + 32;  // the last row may be read on

__shared__ __align__(16) float T_here[condenses ? 4 : room_T];
#ifdef __CUDA_ARCH__
extern __shared__ float4 condensed_here[];  // as much as is asked for at the launch
#else
__shared__ float4 condensed_here[room_asked / 4 + 1];
#endif
static_assert(!condenses || room_condensed + table_rest <= room_asked, "Python has counted wrongly");
__shared__ float rest_here[!condenses && tables_on_chip >= 2 ? table_rest : 1];

struct Tables {
  float *far;  // in the other memory: what is not on the chip, or a Hessian

  DEVICE float *rest() const {
    if (condenses) return (float *)condensed_here + room_condensed;
    return tables_on_chip >= 2 ? rest_here : far;
  }
  DEVICE float *t() const { return rest() + at_t; }                        // nu: swept linear terms
  DEVICE float *point() const { return rest(); }                           // n: (u_{k-1}, x_k), for N + 1 stages
  DEVICE float *s() const { return condenses ? list(2) : rest() + at_s; }  // ns: slacks
  DEVICE float *z() const { return condenses ? list(3) : rest() + at_z; }  // ns: forces
  // ns: the proximal term; 0 marks what is no side
  DEVICE float *delta() const { return rest() + (condenses ? at_lists : at_delta); }
  DEVICE float *change() const { return condenses ? list(0) : rest() + at_change; }  // ns: ds dz of the predictor, then dz
  DEVICE float *at() const { return rest() + (condenses ? at_lists + room_of_sides : at_at); }  // m: G_k u_k
  // Bits of the inputs that may move.
  DEVICE unsigned *free() const { return (unsigned *)(rest() + (condenses ? end_of_lists : at_free)); }
  // At the end, ns for each stage whichever way: forces, and their last change.
  DEVICE float *forces() const { return condenses ? (float *)condensed_here : z(); }
  DEVICE float *last_change() const { return condenses ? (float *)condensed_here + N * ns : change(); }
  // Of a kernel that condenses. The first two have bounds of inputs in the beginning, when no sides need them.
  DEVICE float *list(int i) const {
    if (i < lists_in_work) return &work.X[0][0] + i * room_of_sides;
    return rest() + at_lists + (2 + i - lists_in_work) * room_of_sides;
  }
  DEVICE float *push() const { return list(1); }   // what a side pushes with
  DEVICE float *stiff() const { return list(4); }  // and how stiff it is
  DEVICE float *climb() const { return list(5); }  // and how far a step moves it
  DEVICE float *T(int k) const { return T_here + (keeps_T ? k * nu * n : 0); }
  DEVICE float *far_T(int k) const { return far + table_rest + k * nu * n; }
  DEVICE float *kept_T(int k) const { return keeps_T ? T(k) : far_T(k); }
  DEVICE float *move(int k) const { return move_in_T ? kept_T(k) : rest() + at_move + k * n; }       // (du_k, dx_{k+1})
  DEVICE float *climb(int k) const { return move_in_T ? kept_T(k) + n : rest() + at_climb + k * m; }  // G_k du_k
};

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

constexpr int moved_T = keeps_T || judges ? 0 : nu * n;

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

// A stage's G.
struct Transit_G : Transit<lines * nu> {
  DEVICE void fetch(const Problem &of, int k) {
    if (m > 0) read(of.G + k * lines * nu);
  }
  DEVICE void place() const {
    if (m > 0) write(work.G);
  }
};

// A stage's G while the lanes go from one stage to the next: that of the next one is on its way.
struct Coming_G {
  Transit_G G;

  DEVICE explicit Coming_G(const Problem &of) { G.fetch(of, 0); }

  // Where it is on the chip, after a `__syncwarp`.
  DEVICE const float *at(const Problem &of, int k) {
    G.place();
    if (k + 1 < N) G.fetch(of, k + 1);
    return work.G;
  }
};

// Where a stage's G is on the chip, after a `__syncwarp`.
DEVICE const float *load_G(const Problem &of, int k) {
  Transit_G G;
  G.fetch(of, k);
  G.place();
  return work.G;
}
