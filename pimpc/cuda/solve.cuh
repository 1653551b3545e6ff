// The whole of a solve.

// By recursions over the stages. The plan to start near and its sides are measured.
DEVICE int solve_by_stages(const Places &at, const Problem &of, const Tables &table, const float *u_near,
                           const Multipliers &known, bool solvable, Status &status, float &largest) {
  Near near = {false, 0, INF};
  // Turns: what a warm start lacks, the unconstrained optimum, and then iterations.
  for (int turn = warm_started ? -2 : -1; turn < max_iterations; turn++) {
    Slope slope = turn >= 0 ? of_the_barrier : turn == -1 ? of_the_cost : of_the_lagrangian;
    float saved = backward(at, of, table, slope, turn != -1 || !warm_started, known);
    if (turn == -2) {
      near.excess = saved;
      near.distance = saved + mismatch(of, table, known, near.any);
      plan(of, table, nullptr);
    } else if (turn == -1) {
      take_newton_step(of, table);
      start(at, of, table, u_near, known, near, status, largest);
      if (!solvable) return 0;
    } else {
      for (int pass = 0; pass < 2; pass++) {
        if (pass > 0) correct(at, of, table, status);
        advance(at, of, table, pass > 0, status);
      }
      if (!move(of, table, status)) return turn + 1;
    }
  }
  return max_iterations;
}

// Solves the problem in the tables; returns after how many iterations, and whether there was an answer to look for.
DEVICE int solve_problem(const Places &at, const Problem &of, const Tables &table, const float *u_near,
                         const Multipliers &known, bool runnable, bool &empty, float &largest) {
  Status status;
  plan(of, table, warm_started ? u_near : nullptr);
  Problem near = of;
  if (condenses && m > 0) {
#pragma unroll 8
    for (int i = lane(); i < N * lines * nu; i += 32) {
      int k = i / (lines * nu);
      condensed().G[k * LG + i - k * lines * nu] = of.G[i];
    }
    near.G = condensed().G;
    near.stride_G = LG;
    __syncwarp();
  }
  empty = measure(at, near, table, status.count);
  bool solvable = runnable && !empty;
  if (!solvable) largest = 0;
  if (condenses) {
    int total = list_free(table);
    if (N * nu <= most_free || total <= most_free)
      return solve_condensed(at, near, table, u_near, known, solvable, total, status, largest);
    T_here[room_T - 32 + lane()] = 0;
  }
  return solve_by_stages(at, of, table, u_near, known, solvable, status, largest);
}
