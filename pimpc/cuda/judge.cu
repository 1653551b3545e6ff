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
