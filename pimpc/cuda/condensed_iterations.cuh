// The iterations of `pimpc.interior_point` for problems whose states are eliminated: those of `interior_point.cuh`, but
// that no pass goes from stage to stage. States have no bounds here, and are not known between start and answer.

// C' push for each seat.
DEVICE void pull_seats(const Seat (&seat)[halves], float (&total)[halves]) {
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    const float *push = push_of_sides() + own.k * ns, *column = condensed().G + own.k * stride_G + own.c;
    float sums[2] = {nb > 0 ? push[nb + own.c] - push[own.c] : 0, 0};
    if (m > 0) {
      push += 2 * nb + own.block.rows_first;
#pragma unroll 12
      for (int l = 0; l < lines; l++)
        if (same_rows || l < own.block.rows_count) sums[l % 2] += column[l * nu] * push[l];
    }
    total[half] = own.taken ? sums[0] + sums[1] : 0;
  }
}

// The slope of the cost at the plan in the table, for each seat. Leaves zeros in Condensed::step.
DEVICE void slope_of_plan(const Problem &of, const Tables &table, const Seat (&seat)[halves], float (&slope)[halves]) {
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
  for (int half = 0; half < halves; half++) slope[half] = seat[half].taken ? all[seat[half].spot] : 0;
  __syncwarp();
  for (int i = c; i < N * nu; i += 32) all[i] = 0;
  __syncwarp();
}

// Puts a step in its place among all inputs, of which those that are not free do not move.
DEVICE void spread(const Seat (&seat)[halves], const float (&value)[halves]) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++)
    if (seat[half].taken) condensed().step[seat[half].spot] = value[half];
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
      place[i] = condensed().place[e];
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
      climb[i] = What(condensed().what[e]).apply(condensed().step);
      push[i] = corrector ? push_of_sides()[condensed().place[e]] : 0;
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
      condensed().climb[base + 32 * i] = climb[i];
    }
  }
  conclude(steepest, sums, corrector, status);
  if (corrector) return;
  for (int i = lane(); i < sides; i += 32) {
    Pair it;
    it.read(table, i);
    push_of_sides()[condensed().place[i]] = (status.centre - table.change()[i]) * it.yields;
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
  float way[halves], start_slope[halves], slope[halves];
  float start_cost, floor;  // the cost counts as no less
};

// Takes the step, and says whether to go on: whether the new iterate is not good enough yet.
DEVICE bool move_condensed(const Places &at, const Problem &of, const Tables &table, const Seat (&seat)[halves], int total,
                           int sides, const float (&step_of_seat)[halves], Course &course, Status &status) {
  float step = status.step, gap = 0;
  if (!(step > 0)) return false;
  for (int base = lane(); base - lane() < sides; base += 32 * at_once) {
    Pair pair[at_once];
    float climb[at_once], dz[at_once], value[at_once], limit[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      int e = base + 32 * i < sides ? base + 32 * i : 0;
      pair[i].read(table, e);
      climb[i] = condensed().climb[e];
      dz[i] = table.change()[e];
      value[i] = condensed().value[e] + step * climb[i];
      limit[i] = condensed().limit[e];
    }
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      int e = base + 32 * i;
      if (e >= sides) continue;
      float z = pair[i].z + step * dz[i];
      table.s()[e] = pair[i].s + step * (pair[i].delta * dz[i] - pair[i].off - climb[i]);
      table.z()[e] = z;
      condensed().value[e] = value[i];
      gap += z * fabsf(value[i] - limit[i]);
    }
  }
#pragma unroll
  for (int half = 0; half < halves; half++) {
    if (seat[half].taken) course.way[half] += step * step_of_seat[half];
    condensed().v[seat[half].f] = course.way[half];
    if (seat[half].taken) table.point()[(seat[half].k + 1) * n + seat[half].c] += step * step_of_seat[half];
  }
  float product[halves], cost = 0;
  times_hessian(seat, total, product);
#pragma unroll
  for (int half = 0; half < halves; half++) {
    course.slope[half] = course.start_slope[half] + product[half];
    cost += 0.5f * course.way[half] * (course.start_slope[half] + course.slope[half]);
  }
  gap = sum(gap);
  float scale = fmaxf(course.start_cost + sum(cost), course.floor);
  status.unbalanced *= (1 - step) * (1 - step);
  bool good = gap + status.unbalanced <= 0.5f * tolerance * scale;
  if (good) good = worst_violation(at, of, table, status.least) <= 0.5f * tolerance;
  return !good && scale + gap < INF;
}

// Solves the problem; returns after how many iterations, and whether there was an answer to look for. What a turn does is
// decided as it runs, as it is in `interior_point.cuh`.
DEVICE int solve_problem(const Places &at, const Problem &given, const Tables &table, const float *u_near,
                         const Multipliers &known, bool runnable, bool &empty, float &largest) {
  Problem of = bring_problem(given);
  Status status;
  plan(of, table, warm_started ? u_near : nullptr);
  empty = measure(at, of, table, status.count);
  bool solvable = runnable && !empty;
  if (!solvable) largest = 0;
  int total = list_free(table);
  if (total > most_free) {  // not what was declared: no answer
    for (int i = lane(); i < N * ns; i += 32) table.z()[i] = 0;
    __syncwarp();
    largest = 0;
    return 0;
  }
  Seat seat[halves];
#pragma unroll
  for (int half = 0; half < halves; half++) seat[half] = seat_of(table, half, total);
  condense(of, table, seat, total);
  Near near = {false, 0, INF};
  Course course;
  int sides = 0;
  // Turns: what a warm start lacks, the unconstrained optimum, and then iterations.
  for (int turn = warm_started ? -2 : -1; turn < max_iterations; turn++) {
    float right[halves], step[halves];
    if (turn <= 0) slope_of_plan(of, table, seat, course.slope);
    if (turn == 0) {
      sides = list_sides(at, of, table);
#pragma unroll
      for (int half = 0; half < halves; half++) {
        course.way[half] = 0;
        course.start_slope[half] = course.slope[half];
      }
    }
    if (turn >= 0) weigh_sides(table, sides);
    else push_as_known(known, turn == -2);
    pull_seats(seat, right);
#pragma unroll
    for (int half = 0; half < halves; half++) right[half] = -(course.slope[half] + right[half]);
    renew(seat, total, turn >= 0, right);
    factorize_all(total, right);
    if (warm_started && turn == -2) {
      near.excess = sum(0.5f * (right[0] * right[0] + right[1] * right[1]));
      near.distance = near.excess + mismatch(of, table, known, near.any);
      plan(of, table, nullptr);
      continue;
    }
    for (int pass = 0; pass < (turn < 0 ? 1 : 2); pass++) {
      if (pass > 0) {
        pull_seats(seat, right);
        solve_forth(right, total);
      }
      solve_back(right, total);
#pragma unroll
      for (int half = 0; half < halves; half++) step[half] = pass > 0 ? step[half] - right[half] : right[half];
      spread(seat, step);
      if (turn >= 0) look_ahead(table, sides, pass > 0, status);
    }
    if (turn >= 0) {
      if (move_condensed(at, of, table, seat, total, sides, step, course, status)) continue;
      unlist_sides(table, sides);
      return turn + 1;
    }
    for (int i = lane(); i < N * nu; i += 32) {
      int k = i / nu;
      table.point()[(k + 1) * n + i - k * nu] += condensed().step[i];
    }
    __syncwarp();
    roll_out(of, table.point());
    Survey found = start(at, of, table, u_near, known, near, status, largest);
    if (!solvable) return 0;
    course.start_cost = found.cost;
    course.floor = found.floor;
  }
  if (max_iterations > 0) unlist_sides(table, sides);
  return max_iterations;
}
