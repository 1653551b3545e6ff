// The whole of a solve by recursions over the stages.

// Solves the problem in the tables; returns after how many iterations, and whether there is an answer to look for.
DEVICE int solve_problem(const Places &at, const Problem &of, const Tables &table, const float *u_near,
                         const Multipliers &known, bool runnable, bool &empty) {
  Status status;
  plan(of, table, warm_started ? u_near : nullptr);
  empty = measure(at, of, table, status.count);
  bool solvable = runnable && !empty;
  float largest;
  // Turns: a warm start, the unconstrained optimum if that was not near enough, and then iterations.
  for (int turn = warm_started ? -2 : -1; turn < max_iterations; turn++) {
    Slope slope = turn >= 0 ? of_the_barrier : turn == -1 ? of_the_cost : of_the_lagrangian;
    float saved = backward(at, of, table, slope, turn != -1 || !warm_started, known);
    if (turn >= 0) {
      for (int pass = 0; pass < 2; pass++) {
        if (pass > 0) correct(at, of, table, status);
        advance(at, of, table, pass > 0, status);
      }
      if (!move(of, table, status)) return turn + 1;
      continue;
    }
    bool warm = warm_started && turn == -2, any = false;
    if (!warm) take_newton_step(of, table);
    Survey found = survey(at, of, table);
    float distance = warm ? saved + mismatch(of, table, known, any) : 0;
    if (warm && !(any && distance <= found.energy)) {  // true for what is not a number
      plan(of, table, nullptr);
      continue;
    }
    largest = found.largest;
    start(of, table, found, known, warm, distance, saved, status);
    if (!solvable) return 0;
    turn = -1;
  }
  if (solvable && max_iterations > 0) empty = certifies(at, of, table, largest);
  return max_iterations;
}
