// What is launched: a block, of one warp, for each problem.

#define PROBLEM_ARGUMENTS                                                                                             \
  const float *A, const float *B, const float *e, const float *x0, const float *u_prev, const float *x_ref,           \
      const float *u_ref, const float *Q, const float *R, const float *S, const float *G, const float *h,             \
      const float *u_min, const float *u_max, const float *x_min, const float *x_max, const float *give_x
#define PROBLEM_OF_BLOCK                                                                                              \
  Problem {                                                                                                           \
    lines *nu, A + own(shared_A, N *nx *nx), B + own(shared_B, N *nx *nu), e + own(shared_e, N *nx), x0 + own(shared_x0, nx),    \
        u_prev + own(shared_u_prev, nu), x_ref + own(shared_x_ref, N *nx), u_ref + own(shared_u_ref, N *nu),          \
        Q + own(shared_Q, N *nx), R + own(shared_R, N *nu), S + own(shared_S, N *nu),                                 \
        G + own(shared_G, N *lines *nu), h + own(shared_h, N *m), u_min + own(shared_u_min, N *nu),                   \
        u_max + own(shared_u_max, N *nu), x_min + own(shared_x_min, N *nx), x_max + own(shared_x_max, N *nx),         \
        give_x + own(shared_give_x, N *nx)                                                                            \
  }

// Where the numbers of this block's problem start; all problems may share one set.
DEVICE long long own(bool shared, int size) { return shared ? 0 : (long long)blockIdx.x * size; }

// The tables that do not fit on the chip are in `scratch`.
DEVICE Tables tables_of_block(float *scratch) {
  T_here[room_T - 32 + lane()] = 0;
  return {scratch + own(false, tables_on_chip == 0 ? table_rest + table_T : table_rest)};
}

extern "C" __global__ void __launch_bounds__(32, blocks_at_once)
    solve(PROBLEM_ARGUMENTS, const int *runnable, const float *near_u, const float *near_rows, const float *near_inputs,
          const float *near_states, float *u, float *of_rows, float *of_inputs, float *of_states, float *rows_change,
          float *inputs_change, float *states_change, float *largest, int *iterations, int *empty, float *scratch) {
  Tables table = tables_of_block(scratch);
  Problem of = PROBLEM_OF_BLOCK;
  long long b = blockIdx.x;
  int c = lane();
  Multipliers known = {near_rows + b * N * m, near_inputs + b * N * nu, near_states + b * N * nx, table.delta()};
  float natural;
  bool nothing;
  int count = solve_problem(places_of_lane(), of, table, near_u + b * N * nu, known, runnable[b], nothing, natural);
  if (c == 0) {
    iterations[b] = count;
    empty[b] = nothing;
  }
  if (c < nu) largest[b * nu + c] = natural;
  for (int k = 0; k < N; k++) {
    long long stage = b * N + k;
    const float *z = table.z() + k * ns, *dz = table.change() + k * ns;
    if (c < nu) {
      float v = table.point()[(k + 1) * n + c];
      // Written so that what is not a number stays what it is.
      if (has_u_min) v = v < of.u_min[k * nu + c] ? of.u_min[k * nu + c] : v;
      if (has_u_max) v = v > of.u_max[k * nu + c] ? of.u_max[k * nu + c] : v;
      u[stage * nu + c] = v;
    }
    for (int i = c; i < m; i += 32) {
      of_rows[stage * m + i] = z[2 * nb + i];
      rows_change[stage * m + i] = count > 0 ? dz[2 * nb + i] : 0;
    }
    if (c < nb) {
      float force = z[nb + c] - z[c], by = count > 0 ? dz[nb + c] - dz[c] : 0;
      if (c < nu && bounds_inputs) {
        of_inputs[stage * nu + c] = force;
        inputs_change[stage * nu + c] = by;
      } else if (c >= nu) {
        of_states[stage * nx + c - nu] = force;
        states_change[stage * nx + c - nu] = by;
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(32, blocks_at_once)
    judge(PROBLEM_ARGUMENTS, const float *x, const float *u, const float *of_rows, const float *of_inputs,
          const float *of_states, float *primal, float *saved, float *gap, float *scale, float *scratch) {
  Tables table = tables_of_block(scratch);
  Problem of = PROBLEM_OF_BLOCK;
  long long b = blockIdx.x;
  int c = lane();
  for (int k = 0; k <= N; k++) {
    if (c < nu) table.point()[k * n + c] = k == 0 ? of.u_prev[c] : u[(b * N + k - 1) * nu + c];
    else if (c < n) table.point()[k * n + c] = x[(b * (N + 1) + k) * nx + c - nu];
  }
  for (int k = 0; k < N; k++) {
    unsigned free = __ballot_sync(ALL, c < nu && !is_fixed(of, k, c));
    if (c == 0) table.free()[k] = free;
    for (int i = c; i < ns; i += 32) table.delta()[k * ns + i] = 0;
  }
  __syncwarp();
  Multipliers known = {of_rows + b * N * m, of_inputs + b * N * nu, of_states + b * N * nx, nullptr};
  Judgement found = judge_plan(places_of_lane(), of, table, known);
  if (c == 0) {
    primal[b] = found.primal;
    saved[b] = found.saved;
    gap[b] = found.gap;
    scale[b] = found.scale;
  }
}

extern "C" __global__ void __launch_bounds__(32)
    roll(PROBLEM_ARGUMENTS, const float *u, float *x) {
  Problem of = PROBLEM_OF_BLOCK;
  long long b = blockIdx.x;
  int c = lane();
  float here = c >= nu && c < n ? of.x0[c - nu] : 0;
  if (c >= nu && c < n) x[b * (N + 1) * nx + c - nu] = here;
  for (int k = 0; k < N; k++) {
    float ba[nx];
    load_BA(of, k, ba);
    float e = c >= nu && c < n ? of.e[k * nx + c - nu] : 0;
    here = ahead(ba, c < nu ? u[(b * N + k) * nu + c] : here) + e;
    if (c >= nu && c < n) x[(b * (N + 1) + k + 1) * nx + c - nu] = here;
  }
}
