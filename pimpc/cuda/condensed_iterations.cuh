// The iterations of `pimpc.interior_point` for problems whose states are eliminated: those of `interior_point.cuh`, but
// that no pass goes from stage to stage. States have no bounds here, and are not known between start and answer.

// C' push for each seat.
DEVICE void pull_seats(const Seat (&seat)[seats], float (&total)[seats]) {
#pragma unroll
  for (int s = 0; s < seats; s++) {
    const Seat &own = seat[s];
    const float *push = push_of_sides() + own.k * ns, *column = condensed().G + own.k * stride_G + own.c;
    float sums[2] = {nb > 0 ? push[nb + own.c] - push[own.c] : 0, 0};
    if (m > 0) {
      push += 2 * nb + own.block.rows_first;
#pragma unroll 12
      for (int l = 0; l < lines; l++)
        if (same_rows || l < own.block.rows_count) sums[l % 2] += column[l * nu] * push[l];
    }
    total[s] = own.taken ? sums[0] + sums[1] : 0;
  }
}

// The slope of the cost at the plan in the table, for each seat. Leaves zeros in Condensed::step.
DEVICE void slope_of_plan(const Problem &of, const Tables &table, const Seat (&seat)[seats], float (&slope)[seats]) {
  int c = lane();
  float p = 0, rates_next = 0, *all = condensed().step;
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
    if (c < nu) all[k * nu + c] = p + before[0] + before[1];
    else p = before[0] + before[1];
    rates_next = rates;
  }
  __syncwarp();
#pragma unroll
  for (int s = 0; s < seats; s++) slope[s] = seat[s].taken ? all[seat[s].spot] : 0;
  __syncwarp();
  for (int i = c; i < N * nu; i += 32) all[i] = 0;
  __syncwarp();
}

// Puts a step in its place among all inputs, of which those that are not free do not move.
DEVICE void spread(const Seat (&seat)[seats], const float (&value)[seats]) {
  __syncwarp();
#pragma unroll
  for (int s = 0; s < seats; s++)
    if (seat[s].taken) condensed().step[seat[s].spot] = value[s];
  __syncwarp();
}

// How stiff the sides are, and what they push with.
DEVICE void weigh_sides(const Tables &table, int sides) {
  for (int base = lane(); base - lane() < sides; base += 32 * at_once) {
    Pair pair[at_once];
    int place[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      int e = base + 32 * i < sides ? base + 32 * i : 0;
      pair[i].read(table, e);
      place[i] = place_of_sides()[e];
    }
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      if (base + 32 * i >= sides) continue;
      const Pair &it = pair[i];
      float d = it.z * it.yields;
      stiff_of_sides()[place[i]] = d;
      push_of_sides()[place[i]] = it.z + d * (it.off - it.s);
    }
  }
  __syncwarp();
}

// What a step means for the sides: the predictor's, after which they push with the second-order term and the centre; or the
// corrector's, which is the whole.
DEVICE void look_ahead(const Tables &table, int sides, bool corrector, Status &status) {
  float steepest = 0, sums[3] = {0, 0, 0};
  for (int base = lane(); base - lane() < sides; base += 32 * at_once) {
    Pair pair[at_once];
    float climb[at_once], push[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      int e = base + 32 * i < sides ? base + 32 * i : 0;
      pair[i].read(table, e);
      int place = place_of_sides()[e];
      climb[i] = What(place).apply(condensed().step);
      push[i] = corrector ? push_of_sides()[place] : 0;
    }
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      if (base + 32 * i >= sides) continue;
      const Pair &it = pair[i];
      float product = it.s * it.z, miss = it.off + climb[i];
      float dz = (it.z * miss - product) * it.yields + push[i], ds = it.delta * dz - miss;
      steepest = fmaxf(steepest, fmaxf(ratio(-ds, it.s), ratio(-dz, it.z)));
      sums[0] += product;
      sums[1] += it.s * dz + it.z * ds;
      sums[2] += ds * dz;
      table.change()[base + 32 * i] = corrector ? dz : ds * dz;
      climb_of_sides()[base + 32 * i] = climb[i];
    }
  }
  conclude(steepest, sums, corrector, status);
  if (corrector) return;
  for (int i = lane(); i < sides; i += 32) {
    Pair it;
    it.read(table, i);
    push_of_sides()[place_of_sides()[i]] = (status.centre - table.change()[i]) * it.yields;
  }
  __syncwarp();
}

// The largest relative violation of a side at the plan in the tables; sides of the same kind in all stages are one.
DEVICE float worst_violation(const Places &at, const Problem &of, const Tables &table, float least) {
  float worst = 0;
#pragma unroll
  for (int i = 0; i < chunks; i++) {
    float excess = 0, size = 1e-30f;
    int side = lane() + 32 * i;
    for (int k = 0; k < N; k++) {
      float limit = side < ns ? limit_of(of, k, side) : INF, value = 0, reach = 0;
      const float *point = table.point() + (k + 1) * n;
      if (side < 2 * nb) {
        value = value_of(point, nullptr, side);
        reach = fmaxf(fabsf(value), least);
      } else if (m > 0) {
        const float *row = condensed().G + k * stride_G + at.row[i];
        for (int j = 0; j < at.count[i]; j++) {
          value += row[j] * point[at.first[i] + j];
          reach += fabsf(row[j]) * fmaxf(fabsf(point[at.first[i] + j]), least);
        }
      }
      if (!(limit < INF)) continue;
      excess = fmaxf(excess, value - limit);
      size = fmaxf(size, fmaxf(reach, fabsf(limit)));
    }
    worst = fmaxf(worst, excess / size);
  }
  return most(worst);
}

// What an iterate knows of itself beside the tables: for each seat, the way from the start, and the slope of the cost.
struct Course {
  float way[seats], start_slope[seats], slope[seats];
  float start_cost, floor;  // the cost counts as no less
};

// Takes the step, and says whether to go on: whether the new iterate is not good enough yet. The Hessian is on its way.
DEVICE bool move_condensed(const Places &at, const Problem &of, const Tables &table, const Seat (&seat)[seats], int total,
                           int sides, const float (&step_of_seat)[seats], Course &course, Status &status) {
  float step = status.step, gap = 0;
  if (!(step > 0)) return false;
  for (int base = lane(); base - lane() < sides; base += 32 * at_once) {
    Pair pair[at_once];
    float climb[at_once], dz[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      int e = base + 32 * i < sides ? base + 32 * i : 0;
      pair[i].read(table, e);
      climb[i] = climb_of_sides()[e];
      dz[i] = table.change()[e];
    }
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      int e = base + 32 * i;
      if (e >= sides) continue;
      float z = pair[i].z + step * dz[i], excess = pair[i].excess + step * climb[i];
      table.s()[e] = pair[i].s + step * (pair[i].delta * dz[i] - pair[i].off - climb[i]);
      table.z()[e] = z;
      excess_of_sides()[e] = excess;
      gap += z * fabsf(excess);
    }
  }
#pragma unroll
  for (int s = 0; s < seats; s++) {
    if (seat[s].taken) course.way[s] += step * step_of_seat[s];
    condensed().v[seat[s].f] = course.way[s];
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
  if (good) good = worst_violation(at, of, table, status.least) <= 0.5f * tolerance;
  return !good && scale + gap < INF;
}

// From the unconstrained optimum, to which `step` leads from the plan, to the first iterate; returns the number of its sides.
DEVICE int start_condensed(const Places &at, const Problem &of, const Tables &table, const Seat (&seat)[seats],
                           const float *u_near, const Multipliers &known, const Near &near, Course &course, Status &status,
                           float &largest) {
  for (int i = lane(); i < N * nu; i += 32) {
    int k = i / nu;
    table.point()[(k + 1) * n + i - k * nu] += condensed().step[i];
  }
  __syncwarp();
  roll_out(of, table.point());
  Survey found = start(at, of, table, u_near, known, near, status, largest);
  slope_of_plan(of, table, seat, course.slope);
  course.start_cost = found.cost;
  course.floor = found.floor;
#pragma unroll
  for (int s = 0; s < seats; s++) {
    course.way[s] = 0;
    course.start_slope[s] = course.slope[s];
  }
  return list_sides(of, table);
}

// The predictor and the corrector, or the step of a problem without sides: from the first half of the solution in `b`.
DEVICE void step_of(const Tables &table, const Seat (&seat)[seats], int total, int sides, bool barrier, float (&b)[seats],
                    float (&step)[seats], Status &status) {
  for (int pass = 0; pass < (barrier ? 2 : 1); pass++) {
    if (pass > 0) {
      pull_seats(seat, b);
      solve_forth(seat, total, b);
    }
    solve_back(seat, total, b);
#pragma unroll
    for (int s = 0; s < seats; s++) step[s] = pass > 0 ? step[s] - b[s] : b[s];
    spread(seat, step);
    if (pass > 0) ask_for_hessian(table);
    if (barrier) look_ahead(table, sides, pass > 0, status);
  }
}

// Solves the problem; returns after how many iterations, and whether there is an answer to look for. What a turn does is
// decided as it runs, as it is in `interior_point.cuh`.
DEVICE int solve_problem(const Places &at, const Problem &given, const Tables &table, const float *u_near,
                         const Multipliers &known, bool runnable, bool &empty) {
  int total = count_free(given);
  if (total > most_free) {
    for (int i = lane(); i < all_sides; i += 32) table.z()[i] = 0;
    for (int i = lane(); i < N * nu; i += 32) table.point()[i / nu * n + n + i % nu] = 0;
    __syncwarp();
    empty = false;
    return leaves_others ? -1 : 0;  // without an answer if it is not what was declared
  }
  Problem of = problem_on_chip(given, table);
  Status status;
  bring_sides(given);
  bring_stages(given, table);
  plan(of, table, warm_started ? u_near : nullptr);
  empty = measure(at, of, table, status.count);
  bool solvable = runnable && !empty;
  float largest;
  list_free(table);
  Seat seat[seats];
#pragma unroll
  for (int s = 0; s < seats; s++) seat[s] = seat_of(table, s, total);
  Near near = {false, 0, INF};
  Course course;
  slope_of_plan(of, table, seat, course.slope);
  condense(given, table, seat, total);
  int sides = 0;
  // Turns: what a warm start lacks, the unconstrained optimum, and then iterations.
  for (int turn = warm_started ? -2 : -1; turn < max_iterations; turn++) {
    float right[seats], step[seats];
    if (turn >= 0) weigh_sides(table, sides);
    else push_as_known(known, turn == -2);
    pull_seats(seat, right);
#pragma unroll
    for (int s = 0; s < seats; s++) right[s] = -(course.slope[s] + right[s]);
    renew(seat, total, turn >= 0, right);
    factorize_all(seat, total, right);
    if (warm_started && turn == -2) {
      float energy = 0;
#pragma unroll
      for (int s = 0; s < seats; s++) energy += 0.5f * right[s] * right[s];
      near.excess = sum(energy);
      near.distance = near.excess + mismatch(of, table, known, near.any);
      bring_stages(given, table);
      plan(of, table, nullptr);
      slope_of_plan(of, table, seat, course.slope);
      ask_for_hessian(table);
      arrive();
      continue;
    }
    step_of(table, seat, total, sides, turn >= 0, right, step, status);
    if (turn >= 0) {
      if (move_condensed(at, of, table, seat, total, sides, step, course, status)) continue;
      unlist_sides(table, sides);
      return turn + 1;
    }
    bring_stages(given, table);
    sides = start_condensed(at, of, table, seat, u_near, known, near, course, status, largest);
    if (!solvable) break;
    ask_for_hessian(table);
    arrive();
  }
  unlist_sides(table, sides);
  if (!solvable) return 0;
  of.u_min = given.u_min;  // slacks may be in the place of what was brought
  of.u_max = given.u_max;
  if (max_iterations > 0) empty = certifies(at, of, table, largest);
  return max_iterations;
}
