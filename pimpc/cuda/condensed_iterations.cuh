// The iterations of `pimpc.interior_point` for problems whose states are eliminated: those of `interior_point.cuh`, but
// that no pass goes from stage to stage. States have no bounds here, and are not known between start and answer.

// C' push for each seat.
DEVICE void pull_seats(const Tables &table, const Seat (&seat)[seats], float (&total)[seats]) {
  const float *push = table.push();
#pragma unroll
  for (int s = 0; s < seats; s++) {
    const Seat &own = seat[s];
    total[s] = 0;
    if (!own.taken) continue;
    float sums[2] = {nb > 0 ? push[work.upper_sides + own.f] - push[work.lower_sides + own.f] : 0, 0};
    if (m > 0) {
      float by[most_lines], column[most_lines];
      load_lines(push + own.rows, by);
      load_lines(condensed().G + own.f * tall, column);
#pragma unroll
      for (int l = 0; l < tall; l++) sums[l % 2] += column[l] * by[l];
    }
    total[s] = sums[0] + sums[1];
  }
}

// The slope of the cost at the plan in the table, for each seat.
DEVICE void slope_of_plan(const Problem &of, const Tables &table, const Seat (&seat)[seats], float (&slope)[seats]) {
  int c = lane();
  float p = 0, rates_next = 0, *all = step_of_inputs();
  for (int k = N - 1; k >= 0; k--) {
    Column column = column_of(of, table.point(), k);
    float ba[nx], costate[nx], before[2] = {0, 0};
    load_BA(of, k, ba);
    float rates = column.rate * (column.value - column.before);
    p = column.weight * (column.value - column.reference) + rates - rates_next + (c < nu ? 0 : p);
    __syncwarp();
    work.v[c] = p;
    __syncwarp();
    load_vector<nx>(work.v + nu, costate);
#pragma unroll
    for (int j = 0; j < nx; j++) before[j % 2] += costate[j] * ba[j];
    unsigned free = table.free()[k];
    if (c < nu && (free >> c & 1)) all[work.first_free[k] + __popc(free & below(c))] = p + before[0] + before[1];
    if (c >= nu) p = before[0] + before[1];
    rates_next = rates;
  }
  __syncwarp();
#pragma unroll
  for (int s = 0; s < seats; s++) slope[s] = seat[s].taken ? all[seat[s].f] : 0;
}

// Lets all lanes know a step.
DEVICE void share_step(const Seat (&seat)[seats], const float (&value)[seats]) {
  __syncwarp();
#pragma unroll
  for (int s = 0; s < seats; s++)
    step_of_inputs()[seat[s].f] = value[s];
  __syncwarp();
}

// How stiff the sides are, and what they push with.
DEVICE void weigh_sides(const Tables &table, int places) {
  for (int e = 4 * lane(); e < places; e += 128) {
    Four it(table, e);
    float stiff[4], push[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      stiff[i] = it.z[i] * it.yields[i];
      push[i] = it.z[i] + stiff[i] * (it.off[i] - it.s[i]);
    }
    store_four(table.stiff() + e, stiff);
    store_four(table.push() + e, push);
  }
  __syncwarp();
}

// What a step means for the sides: the predictor's, after which they push with the second-order term and the centre; or the
// corrector's, which is the whole.
DEVICE void look_ahead(const Tables &table, int places, bool corrector, Status &status) {
  float steepest = 0, sums[3] = {0, 0, 0};
  for (int e = 4 * lane(); e < places; e += 128) {
    Four it(table, e);
    float climb[4], push[4], change[4];
    climb_of_four(e, climb);
    load_four(table.push() + e, push);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      climb[i] = it.has(i) ? climb[i] : 0;
      float product = it.s[i] * it.z[i], miss = it.off[i] + climb[i];
      float dz = (it.z[i] * miss - product) * it.yields[i] + (corrector ? push[i] : 0), ds = it.delta[i] * dz - miss;
      steepest = fmaxf(steepest, fmaxf(ratio(-ds, it.s[i]), it.has(i) ? ratio(-dz, it.z[i]) : 0));
      sums[0] += product;
      sums[1] += it.s[i] * dz + it.z[i] * ds;
      sums[2] += ds * dz;
      change[i] = corrector ? dz : ds * dz;
    }
    store_four(table.change() + e, change);
    store_four(table.climb() + e, climb);
  }
  conclude(steepest, sums, corrector, status);
  if (corrector) return;
  for (int e = 4 * lane(); e < places; e += 128) {
    Four it(table, e);
    float change[4], push[4];
    load_four(table.change() + e, change);
#pragma unroll
    for (int i = 0; i < 4; i++) push[i] = (status.centre - change[i]) * it.yields[i];
    store_four(table.push() + e, push);
  }
  __syncwarp();
}

// The largest relative violation of a side at the plan in the tables; sides of the same kind in all stages are one.
DEVICE float worst_violation(const Places &at, const Problem &given, const Tables &table, float least) {
  float worst = 0, excess[chunks + 1], size[chunks + 1];
#pragma unroll
  for (int i = 0; i < chunks; i++) excess[i] = size[i] = 0;
  Coming_G coming(given);
  for (int k = 0; k < N; k++) {
    const float *point = table.point() + (k + 1) * n;
    __syncwarp();
    work.v[lane()] = lane() < nu ? point[lane()] : 0;
    const float *G = coming.at(given, k);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i;
      float limit = side < ns ? limit_of(given, k, side) : INF;
      if (!(limit < INF)) continue;
      float value = side < 2 * nb ? value_of(point, nullptr, side) : climb_of(at, i, G);
      excess[i] = fmaxf(excess[i], value - limit);
      size[i] = fmaxf(size[i], side < 2 * nb ? fmaxf(fabsf(value), least) : reach_of(at, i, G, least));
    }
  }
#pragma unroll
  for (int i = 0; i < chunks; i++) worst = fmaxf(worst, excess[i] / fmaxf(size[i], 1e-30f));
  return most(worst);
}

// What an iterate knows of itself beside the tables: for each seat, the way from the start, and the slope of the cost.
struct Course {
  float way[seats], start_slope[seats], slope[seats];
  float start_cost, floor;  // the cost counts as no less
};

// Takes the step, and says whether to go on: whether the new iterate is not good enough yet. The Hessian is on its way.
DEVICE bool move_condensed(const Places &at, const Problem &given, const Tables &table, const Seat (&seat)[seats], int total,
                           int places, const float (&step_of_seat)[seats], Course &course, Status &status) {
  float step = status.step, gap = 0;
  if (!(step > 0)) return false;
  for (int e = 4 * lane(); e < places; e += 128) {
    Four it(table, e);
    float climb[4], dz[4];
    load_four(table.climb() + e, climb);
    load_four(table.change() + e, dz);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      it.s[i] += step * (it.delta[i] * dz[i] - it.off[i] - climb[i]);
      it.z[i] += step * dz[i];
      it.excess[i] += step * climb[i];
      gap += it.z[i] * fabsf(it.excess[i]);
    }
    store_four(table.s() + e, it.s);
    store_four(table.z() + e, it.z);
    store_four(table.at() + e, it.excess);
  }
#pragma unroll
  for (int s = 0; s < seats; s++) {
    if (seat[s].taken) course.way[s] += step * step_of_seat[s];
    vector_of_inputs()[seat[s].f] = course.way[s];
    if (seat[s].taken) table.point()[(seat[s].k + 1) * n + seat[s].c] += step * step_of_seat[s];
  }
  float product[seats], cost = 0;
  times_hessian(seat, total, product);
#pragma unroll
  for (int s = 0; s < seats; s++) {
    course.slope[s] = course.start_slope[s] + product[s];
    cost += 0.5f * course.way[s] * (course.start_slope[s] + course.slope[s]);
  }
  gap = sum(gap);
  float scale = fmaxf(course.start_cost + sum(cost), course.floor);
  status.unbalanced *= (1 - step) * (1 - step);
  bool good = gap + status.unbalanced <= 0.5f * tolerance * scale;
  if (good) good = worst_violation(at, given, table, status.least) <= 0.5f * tolerance;
  return !good && scale + gap < INF;
}

// Takes the step to the unconstrained optimum.
DEVICE void take_step(const Problem &of, const Tables &table, const Seat (&seat)[seats], const float (&step)[seats]) {
#pragma unroll
  for (int s = 0; s < seats; s++)
    if (seat[s].taken) table.point()[(seat[s].k + 1) * n + seat[s].c] += step[s];
  __syncwarp();
  roll_out(of, table.point());
}

// Begins the iterations at the plan in the table.
DEVICE void set_out(const Problem &of, const Tables &table, const Seat (&seat)[seats], int places, const Survey &found,
                    Course &course) {
  slope_of_plan(of, table, seat, course.slope);
  course.start_cost = found.cost;
  course.floor = found.floor;
#pragma unroll
  for (int s = 0; s < seats; s++) {
    course.way[s] = 0;
    course.start_slope[s] = course.slope[s];
  }
  compare_sides(of, table, places);
}

// The predictor and the corrector, or the step of a problem without sides: from the first half of the solution in `b`.
DEVICE void step_of(const Tables &table, const Seat (&seat)[seats], int total, int places, bool barrier, float (&b)[seats],
                    float (&step)[seats], Status &status) {
  for (int pass = 0; pass < (barrier ? 2 : 1); pass++) {
    if (pass > 0) {
      pull_seats(table, seat, b);
      solve_forth(seat, total, b);
    }
    solve_back(seat, total, b);
#pragma unroll
    for (int s = 0; s < seats; s++) step[s] = pass > 0 ? step[s] - b[s] : b[s];
    share_step(seat, step);
    if (pass > 0) ask_for_hessian(table);
    if (barrier) look_ahead(table, places, pass > 0, status);
  }
}

// Solves the problem; returns after how many iterations, and whether there is an answer to look for. What a turn does is
// decided as it runs, as it is in `interior_point.cuh`.
DEVICE int solve_problem(const Places &at, const Problem &given, const Tables &table, const float *u_near,
                         const Multipliers &known, bool runnable, bool &empty) {
  int total = count_free(given);
  bool room = total <= most_free && list_free(given, table, total);
  if (!room) {
    for (int i = lane(); i < N * ns; i += 32) table.forces()[i] = 0;
    for (int i = lane(); i < N * nu; i += 32) table.point()[i / nu * n + n + i % nu] = 0;
    __syncwarp();
    empty = false;
    return leaves_others ? -1 : 0;  // without an answer if it is not what was declared
  }
  int places = count_places(total);
  for (int e = lane(); e < room_of_sides; e += 32) table.delta()[e] = 0;
  Problem of = problem_on_chip(given, table);
  Status status;
  gather_columns(given, total);
  bring_stages(given, table);
  plan(of, table, warm_started ? u_near : nullptr);
  empty = measure(at, of, table, status.count);
  bool solvable = runnable && !empty;
  float largest;
  Seat seat[seats];
#pragma unroll
  for (int s = 0; s < seats; s++) seat[s] = seat_of(table, s, total);
  Course course;
  slope_of_plan(of, table, seat, course.slope);
  condense(given, table, seat, total);
  // Turns: a warm start, the unconstrained optimum if that was not near enough, and then iterations.
  for (int turn = warm_started ? -2 : -1; turn < max_iterations; turn++) {
    float right[seats], step[seats];
    if (turn >= 0) weigh_sides(table, places);
    else push_as_known(table, known, turn == -2, places);
    pull_seats(table, seat, right);
#pragma unroll
    for (int s = 0; s < seats; s++) right[s] = -(course.slope[s] + right[s]);
    renew(table, seat, total, turn >= 0, right);
    factorize_all(seat, total, right);
    bool warm = warm_started && turn == -2, any = false;
    if (!warm) step_of(table, seat, total, places, turn >= 0, right, step, status);
    if (turn >= 0) {
      if (move_condensed(at, given, table, seat, total, places, step, course, status)) continue;
      sort_sides(table);
      return turn + 1;
    }
    float excess = 0, distance = 0;
    if (warm) {
#pragma unroll
      for (int s = 0; s < seats; s++) excess += 0.5f * right[s] * right[s];
      excess = sum(excess);
      distance = excess + mismatch(given, table, known, any);
    }
    bring_stages(given, table);
    if (!warm) take_step(of, table, seat, step);
    Survey found = survey(at, of, table);
    if (warm && !(any && distance <= found.energy)) {  // true for what is not a number
      plan(of, table, nullptr);
      slope_of_plan(of, table, seat, course.slope);
    } else {
      largest = found.largest;
      start(of, table, found, known, warm, distance, excess, status);
      set_out(of, table, seat, places, found, course);
      if (!solvable) break;
      turn = -1;
    }
    ask_for_hessian(table);
    arrive();
  }
  sort_sides(table);
  if (!solvable) return 0;
  if (max_iterations > 0) empty = certifies(at, given, table, largest);
  return max_iterations;
}
