extern "C" __global__ void __launch_bounds__(32, blocks_at_once)
    solve(PROBLEM_ARGUMENTS, const int *runnable, const float *near_u, const float *near_rows, const float *near_inputs,
          const float *near_states, float *u, float *of_rows, float *of_inputs, float *of_states, int *iterations, int *empty,
          float *scratch) {
  Tables table = tables_of_block(scratch);
  Problem of = PROBLEM_OF_BLOCK;
  long long b = blockIdx.x;
  int c = lane();
  if (runnable[b] < 0) return;  // there is an answer
  Multipliers known = {near_rows + b * N * m, near_inputs + b * N * nu, near_states + b * N * nx, &table};
  bool nothing;
  int count = solve_problem(places_of_lane(), of, table, near_u + b * N * nu, known, runnable[b] != 0, nothing);
  if (c == 0) {
    iterations[b] = count;
    empty[b] = nothing;
  }
  if (count < 0) return;  // the next kernel is to solve it
  for (int k = 0; k < N; k++) {
    long long stage = b * N + k;
    const float *z = table.forces() + k * ns;
    if (c < nu) {
      float v = table.point()[(k + 1) * n + c];
      // Written so that what is not a number stays what it is.
      if (has_u_min) v = v < of.u_min[k * nu + c] ? of.u_min[k * nu + c] : v;
      if (has_u_max) v = v > of.u_max[k * nu + c] ? of.u_max[k * nu + c] : v;
      u[stage * nu + c] = v;
    }
    for (int i = c; i < m; i += 32) of_rows[stage * m + i] = z[2 * nb + i];
    if (c < nb) {
      float force = z[nb + c] - z[c];
      if (c < nu && bounds_inputs) of_inputs[stage * nu + c] = force;
      else if (c >= nu) of_states[stage * nx + c - nu] = force;
    }
  }
}
