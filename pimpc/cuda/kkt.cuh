// How far a plan and its multipliers are from the optimum (see `pimpc.residuals`), judged apart from the iterations.

struct Judgement {
  float primal;  // largest relative violation of a constraint, the dynamics included
  float saved;   // what a Newton step would save, of the gradient of the Lagrangian
  float gap;     // the sum of |multiplier x slack|
  float scale;   // of the cost
};

// The sum of |multiplier x slack| over the bounds of column `lane` of a stage.
DEVICE float gap_of_column(const Problem &of, const Multipliers &known, int k, float value, bool fixed) {
  int c = lane();
  if (c >= nb || (c < nu && (!bounds_inputs || fixed))) return 0;
  float force = c < nu ? known.inputs[k * nu + c] : known.states[k * nx + c - nu];
  if (force == 0) return 0;
  float limit = limit_of(of, k, force > 0 ? nb + c : c);
  return fabsf(force) * fabsf(limit - (force > 0 ? value : -value));
}

// The plan and the free inputs are in the tables.
DEVICE Judgement judge_plan(const Places &at, const Problem &of, const Tables &table, const Multipliers &known) {
  int c = lane();
  Survey found = survey(at, of, table);
  float defect = 0, reach = 0, over = 0, size = 0, gap = 0, odd = 0, excess[chunks + 1], sizes[chunks + 1];
#pragma unroll
  for (int i = 0; i < chunks; i++) excess[i] = sizes[i] = 0;
  if (c >= nu && c < n) reach = size = fabsf(table.point()[c]);
  for (int k = 0; k < N; k++) {
    float ba[nx];
    load_BA(of, k, ba);
    float value = c < n ? table.point()[(k + 1) * n + c] : 0, before = c >= nu && c < n ? table.point()[k * n + c] : 0;
    float by_input = ahead(ba, c < nu ? value : 0), by_state = ahead(ba, before);
    const float *G = load_G(of, k);
    work.v[c] = c < nu ? value : 0;
    odd += value - value;
    float low = -INF, high = INF;
    if (c < nu) {
      if (has_u_min) low = of.u_min[k * nu + c];
      if (has_u_max) high = of.u_max[k * nu + c];
      size = fmaxf(size, fmaxf(fabsf(value), found.least));
    } else if (c < n) {
      float e = of.e[k * nx + c - nu];
      defect = fmaxf(defect, fabsf(value - by_input - by_state - e));
      size = fmaxf(fmaxf(size, fabsf(value)), fmaxf(fabsf(by_input), fabsf(e)));  // of terms that cancel it has one
      reach = fmaxf(fmaxf(reach, size), fabsf(by_state));
      if (has_x_min) low = of.x_min[k * nx + c - nu];
      if (has_x_max) high = of.x_max[k * nx + c - nu];
    }
    over = fmaxf(over, fmaxf(value - high, low - value));
    gap += gap_of_column(of, known, k, value, c < nu && is_fixed(of, k, c));
    __syncwarp();
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (side < 2 * nb || side >= ns) continue;
      float climb = climb_of(at, i, G), limit = limit_of(of, k, side), force = multiplier_of(known, k, side);
      excess[i] = fmaxf(excess[i], climb - limit);
      sizes[i] = fmaxf(sizes[i], reach_of(at, i, G, found.least));
      if (force > 0) gap += force * fabsf(limit - climb);
      if (force < 0) gap = INF;  // rows have no lower bound
    }
    __syncwarp();
  }
  float worst = fmaxf(defect / fmaxf(reach, TINY), over / fmaxf(size, TINY));
#pragma unroll
  for (int i = 0; i < chunks; i++) worst = fmaxf(worst, excess[i] / fmaxf(sizes[i], TINY));
  float saved = backward(at, of, table, of_the_lagrangian, true, known);
  return {most(worst) + sum(odd), saved, sum(gap), found.scale};
}
