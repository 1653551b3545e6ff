// What CUDA C++ has and C++17 has not, for kernels whose blocks are one warp: the C++ compiler builds the very source
// that NVRTC builds, and the 32 lanes of a warp run as fibers on one thread of the CPU. `cuda_on_cpu.py` puts this text
// in front of the kernels, which stand in `namespace warp_emulator::kernels`, and EXPORT(name) behind them for each.
//
// A lane runs until it reaches a collective (`__syncwarp`, a shuffle, a vote), and then the next lane runs, from 0 to
// 31 or in reverse. So shared memory that is read without a `__syncwarp` gives results that depend on the order.
// Collectives take the full mask only, and all lanes must reach the same one: the same function, and the same line
// unless it is `__syncwarp`. Shared memory is filled with 0xff, which is NaN or -1, before each block. Asynchronous copies
// (`copy_later`) are there when their lane asks for them (`finish_copies`) and not before, and none may be left at the end.

#include <functional>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("warp_shared")))

#define WARP_HIDDEN extern "C" __attribute__((visibility("hidden")))
#define WARP_VISIBLE __attribute__((visibility("default")))

WARP_HIDDEN char __start_warp_shared[], __stop_warp_shared[];  // set by the linker
WARP_VISIBLE int warp_emulator_reverse;
WARP_VISIBLE char warp_emulator_error[256];

namespace warp_emulator {

#define WARP_VECTORS(of, T)                                       \
  struct __align__(2 * sizeof(T)) of##2 { T x, y; };              \
  struct of##3 { T x, y, z; };                                    \
  struct __align__(4 * sizeof(T)) of##4 { T x, y, z, w; };        \
  inline of##2 make_##of##2(T x, T y) { return {x, y}; }          \
  inline of##3 make_##of##3(T x, T y, T z) { return {x, y, z}; }  \
  inline of##4 make_##of##4(T x, T y, T z, T w) { return {x, y, z, w}; }
WARP_VECTORS(float, float)
WARP_VECTORS(int, int)
WARP_VECTORS(uint, unsigned)

static uint3 threadIdx, blockIdx, gridDim = {1, 1, 1};
static constexpr uint3 blockDim = {32, 1, 1};
__shared__ char some_shared_memory __attribute__((used));  // or else there might be no such section

void run_lane();
#if defined(__x86_64__) && !defined(WARP_EMULATOR_UCONTEXT)
using Context = void **;  // the stack pointer; what a function must preserve lies on the stack
WARP_HIDDEN void warp_emulator_switch(Context *from, Context to);
asm(R"(
.pushsection .text
.globl warp_emulator_switch
warp_emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.popsection
)");
inline void switch_context(Context &from, Context &to) { warp_emulator_switch(&from, to); }
inline void prepare(Context &context, char *stack, size_t size) {
  context = (Context)(stack + size) - 8;  // six registers, where to return to, and a word for the alignment
  context[6] = (void *)run_lane;
}
#else
using Context = ucontext_t;
inline void switch_context(Context &from, Context &to) { swapcontext(&from, &to); }
inline void prepare(Context &context, char *stack, size_t size) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  makecontext(&context, run_lane, 0);
}
#endif

static std::function<void()> body;  // of a lane
static Context caller, lanes[32];
static const char *kind;   // of the collective that the first lane of this round has reached
static int line, arrived;  // where that is, and how many lanes are there
static unsigned parity;    // of the round: a lane may be one round ahead of those that still read
static unsigned votes[2];
static unsigned long long values[2][32];
static const char the_end[] = "the end of the kernel", the_syncwarp[] = "__syncwarp";

// Asynchronous copies of numbers that lanes have begun.
struct Copy {
  float *to;
  const float *from;
  size_t bytes;
};
static std::vector<Copy> copies[32];

inline void fail(const char *what) {
  int lane = threadIdx.x;
  snprintf(warp_emulator_error, sizeof warp_emulator_error, "block %u: lane %d: %s", blockIdx.x, lane, what);
  switch_context(lanes[lane], caller);
}

inline void copy_later(float *to, const float *from, int count) {
  size_t bytes = sizeof(float) * count;
  if ((size_t)to % bytes || (size_t)from % bytes) fail("a copy is not aligned");
  copies[threadIdx.x].push_back({to, from, bytes});
}

inline void finish_copies() {
  for (const Copy &copy : copies[threadIdx.x]) memcpy(copy.to, copy.from, copy.bytes);
  copies[threadIdx.x].clear();
}

// A lane reaches a collective and waits for the others. What follows a failure does not run.
inline void arrive(const char *at, int at_line, unsigned mask, bool vote = false) {
  int lane = threadIdx.x, first = warp_emulator_reverse ? 31 : 0;
  if (arrived++ == 0) kind = at, line = at_line, votes[parity] = 0;
  votes[parity] |= (unsigned)vote << lane;
  if (mask != ~0u || kind != at || (line != at_line && at != the_syncwarp)) {
    snprintf(warp_emulator_error, sizeof warp_emulator_error,
             "block %u: %s: lane %d is at %s (line %d), lane %d at %s (line %d)", blockIdx.x,
             mask != ~0u ? "a mask that is not full" : "lanes diverge", lane, at, at_line, first, kind, line);
    switch_context(lanes[lane], caller);
  }
  if (arrived == 32) {
    if (at == the_end) switch_context(lanes[lane], caller);
    arrived = 0, parity ^= 1;
  }
  threadIdx.x = arrived == 0 ? first : warp_emulator_reverse ? lane - 1 : lane + 1;
  switch_context(lanes[lane], lanes[threadIdx.x]);
}

void run_lane() {
  body();
  if (!copies[threadIdx.x].empty()) fail("nobody has waited for its copies");
  arrive(the_end, 0, ~0u);
}

template <class... Types>
int run(void (*kernel)(Types *...), void **pointers, int grid, int reverse) {
  constexpr size_t size = 1 << 20, guard = 1 << 16;  // of each stack, and of what must not be touched below it
  static char *stacks = (char *)mmap(nullptr, 32 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  std::tuple<Types *...> arguments{static_cast<Types *>(*pointers++)...};
  body = [=] { std::apply(kernel, arguments); };
  warp_emulator_reverse = reverse, warp_emulator_error[0] = 0, gridDim.x = grid;
  for (int lane = 0; lane < 32; lane++) mprotect(stacks + lane * size + guard, size - guard, PROT_READ | PROT_WRITE);
  for (blockIdx.x = 0; blockIdx.x < gridDim.x && !warp_emulator_error[0]; blockIdx.x++) {
    memset(__start_warp_shared, 0xff, __stop_warp_shared - __start_warp_shared);
    // At different distances from a page, the tops of the stacks do not compete for the same lines of the cache.
    for (int lane = 0; lane < 32; lane++) prepare(lanes[lane], stacks + lane * size + guard, size - guard - 576 * lane);
    arrived = 0;
    for (auto &of_lane : copies) of_lane.clear();
    threadIdx.x = reverse ? 31 : 0;
    switch_context(caller, lanes[threadIdx.x]);
  }
  if (warp_emulator_error[0]) fprintf(stderr, "warp_emulator: %s\n", warp_emulator_error);
  return warp_emulator_error[0] != 0;
}

// What the arguments point at, as NumPy calls it: "f4 i4 " of (const float *, int *).
template <class... T>
const char *types_of(void (*)(T *...)) {
  static std::string types;
  types.clear();
  ((types += T(0.5) != 0 ? "f" : T(-1) < 0 ? "i" : "u", types += std::to_string(sizeof(T)) + " "), ...);
  return types.c_str();
}

#define EXPORT(name)                                                                   \
  extern "C" WARP_VISIBLE int run_##name(void **pointers, int grid, int reverse) {     \
    return warp_emulator::run(warp_emulator::kernels::name, pointers, grid, reverse);  \
  }                                                                                    \
  extern "C" WARP_VISIBLE const char *types_##name() {                                 \
    return warp_emulator::types_of(warp_emulator::kernels::name);                      \
  }

inline void __syncwarp(unsigned mask = ~0u, int at = __builtin_LINE()) { arrive(the_syncwarp, at, mask); }

#define WARP_SHUFFLE(name, by, source)                                                           \
  static const char the##name[] = #name;                                                         \
  template <class T>                                                                             \
  T name(unsigned mask, T value, int by, int width = 32, int at = __builtin_LINE()) {            \
    int lane = threadIdx.x, base = lane & -width, from = source, own = parity;                   \
    static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof values[0][0]);                  \
    memcpy(&values[own][lane], &value, sizeof value);                                            \
    arrive(the##name, at, mask);                                                                 \
    memcpy(&value, &values[own][from >= 0 && from < base + width ? from : lane], sizeof value);  \
    return value;                                                                                \
  }
WARP_SHUFFLE(__shfl_sync, from_lane, base + (from_lane & (width - 1)))
WARP_SHUFFLE(__shfl_xor_sync, bits, lane ^ bits)
WARP_SHUFFLE(__shfl_down_sync, by, lane + by)
WARP_SHUFFLE(__shfl_up_sync, by, lane - by >= base ? lane - by : lane)

#define WARP_VOTE(type, name, result)                                      \
  static const char the##name[] = #name;                                   \
  inline type name(unsigned mask, int value, int at = __builtin_LINE()) {  \
    unsigned own = parity;                                                 \
    arrive(the##name, at, mask, value != 0);                               \
    return result;                                                         \
  }
WARP_VOTE(unsigned, __ballot_sync, votes[own])
WARP_VOTE(int, __any_sync, votes[own] != 0)
WARP_VOTE(int, __all_sync, votes[own] == ~0u)

inline float __int_as_float(int bits) { return *(float *)&bits; }  // needs -fno-strict-aliasing
inline int __float_as_int(float value) { return *(int *)&value; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fdividef(float x, float y) { return x / y; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <class T> T __ldg(const T *at) { return *at; }

#define WARP_CHOICE(name, order)                                                                     \
  template <class A, class B, class T = std::common_type_t<A, B>>                                    \
  T name(A a, B b) {                                                                                 \
    if constexpr (std::is_floating_point_v<T>) return f##name(T(a), T(b)); /* a number if one is */  \
    return T(a) order T(b) ? a : b;                                                                  \
  }
WARP_CHOICE(min, <)
WARP_CHOICE(max, >)

}  // namespace warp_emulator
