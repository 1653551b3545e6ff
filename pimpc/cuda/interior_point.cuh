// The iterations of `pimpc.interior_point`, in five passes over the stages each: back with the Hessians and the predictor's
// gradient, forth with its step, back with what the corrector's gradient adds, forth with the whole step, and once more to
// move and to measure.
//
// What depends on the pass is decided as it runs: code for each case apart would not fit in the processor's caches.

// The side of a stage that belongs to this lane.
struct Side {
  bool has;
  float s, z, delta, off;  // off: how far s is from the distance to the bound
  float yields;            // 1 / (s + delta z)
};

DEVICE Side side_of(const Problem &of, const Tables &table, int k, int side) {
  int i = k * ns + side;
  Side it;
  it.delta = table.delta()[i];
  it.has = it.delta > 0;
  it.s = table.s()[i];
  it.z = table.z()[i];
  float off = value_of(table.point() + (k + 1) * n, table.at() + k * m, side) - limit_of(of, k, side) + it.s;
  it.off = it.has ? off : 0;
  it.yields = ratio(1, it.s + it.delta * it.z);
  return it;
}

DEVICE void sides_of(const Problem &of, const Tables &table, int k, Side (&sides)[chunks + 1]) {
#pragma unroll
  for (int i = 0; i < chunks; i++)
    if (lane() + 32 * i < ns) sides[i] = side_of(of, table, k, lane() + 32 * i);
}

enum Slope { of_the_cost, of_the_lagrangian, of_the_barrier };

// Back over the stages with Hessians and a gradient, or with the gradient alone where the Hessians are known.
// Returns by how much the minimum is lower.
DEVICE float backward(const Places &at, const Problem &of, const Tables &table, Slope slope_of, bool with_hessians,
                      const Multipliers &known) {
  int c = lane();
  float p = 0, rate_next = 0, rates_next = 0, saved = 0;
  bool pushed = slope_of != of_the_cost, barrier = slope_of == of_the_barrier;
  __syncwarp();
  if (with_hessians) {
    // There is no value after the last stage.
    float *T = table.T(N - 1);
    for (int i = c; i < nu * n; i += 32) T[i] = 0;
    for (int i = c; i < nx * nx; i += 32) (&work.P_xx[0][0])[i] = 0;
  }
  for (int k = N - 1; k >= 0; k--) {
    __syncwarp();
    Column column = column_of(of, table.point(), k);
    float stiff = 0, ba[nx];
    load_BA(of, k, ba);
    Transit_T T_k;
    if (!with_hessians) T_k.fetch(table, k);
    if (pushed) {
      Transit_G G;
      Side sides[chunks + 1];
      G.fetch(of, k);
      if (barrier) sides_of(of, table, k, sides);
      G.place();
#pragma unroll
      for (int i = 0; i < chunks; i++) {
        int side = c + 32 * i;
        if (side >= ns) continue;
        if (barrier) {
          const Side &it = sides[i];
          float d = it.z * it.yields;
          work.stiff[side] = d;
          work.push[side] = it.z + d * (it.off - it.s);
        } else {
          work.push[side] = side >= nb ? multiplier_of(known, k, side) : 0;
        }
      }
      __syncwarp();
    }
    if (!with_hessians) T_k.place();
    float rates = column.rate * (column.value - column.before);
    float slope = column.weight * (column.value - column.reference) + rates - rates_next;
    if (pushed) slope += pull(at, work.G, work.push);
    if (nb > 0 && barrier && c < nb) stiff = work.stiff[c] + work.stiff[nb + c];
    float *T = table.T(k);
    if (with_hessians) {
      const float *T_next = k == N - 1 ? T : table.T(k + 1);
      factorize_stage(at, table.free()[k], ba, column.weight + column.rate + stiff, rate_next, barrier, T_next, T);
      keep_T(table, k);
    }
    float t;
    p = linear_before(ba, T, column.rate, p, slope, t, saved);
    if (c < nu && !judges) table.t()[k * nu + c] = t;
    rate_next = column.rate;
    rates_next = rates;
  }
  return sum(saved);
}

// Takes the Newton step of the last backward pass: its inputs, and rolls out the states anew. A step from where all falls
// may be thousands of times as large as the plan, and states that were stepped as well would keep its rounding.
DEVICE void take_newton_step(const Problem &of, const Tables &table) {
  int c = lane();
  float before = 0;
  for (int k = 0; k < N; k++) {
    __syncwarp();
    float ba[nx];
    load_BA(of, k, ba);
    Transit_T T;
    T.fetch(table, k);
    int input = k * nu + (c < nu ? c : 0);
    float t = table.t()[input], rate = of.S[input];
    T.place();
    before = forward(ba, table.T(k), t, rate, before);
    if (c < nu) table.point()[(k + 1) * n + c] += before;
  }
  __syncwarp();
  roll_out(of, table.point());
}

// Forth over the stages: the predictor's step, or the corrector's, which is the whole.
DEVICE void advance(const Places &at, const Problem &of, const Tables &table, bool corrector, Status &status) {
  int c = lane();
  float before = 0, steepest = 0, sums[3] = {0, 0, 0};
  if (!corrector) {
#pragma unroll
    for (int i = 0; i < chunks; i++) status.size[i] = 0;
  }
  for (int k = 0; k < N; k++) {
    __syncwarp();
    float ba[nx];
    load_BA(of, k, ba);
    Transit_G G;
    Transit_T T;
    Side sides[chunks + 1];
    G.fetch(of, k);
    T.fetch(table, k);
    int input = k * nu + (c < nu ? c : 0);
    float t = table.t()[input], rate = of.S[input], u = table.point()[(k + 1) * n + (c < nu ? c : 0)], known[chunks + 1];
    sides_of(of, table, k, sides);
#pragma unroll
    for (int i = 0; i < chunks; i++) known[i] = corrector && c + 32 * i < ns ? table.change()[k * ns + c + 32 * i] : 0;
    G.place();
    T.place();
    before = forward(ba, table.T(k), t, rate, before);
    if (nb > 0) work.w[c] = before;
    if (corrector && c < n) table.move(k)[c] = before;
    float climb[chunks + 1];
#pragma unroll
    for (int i = 0; i < chunks; i++) climb[i] = climb_of(at, i, work.G);
    __syncwarp();
    if (!corrector) {
      if (c < nu) work.v[c] = u;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < chunks; i++) status.size[i] = fmaxf(status.size[i], reach_of(at, i, work.G, status.least));
    }
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (side >= ns) continue;
      if (corrector && side >= 2 * nb) table.climb(k)[side - 2 * nb] = climb[i];
      const Side &it = sides[i];
      float toward = side < nb ? -work.w[side] : side < 2 * nb ? work.w[side - nb] : climb[i], product = it.s * it.z;
      float aim = corrector ? product + known[i] - status.centre : product;
      float miss = it.off + toward;
      float dz = it.has ? (it.z * miss - aim) * it.yields : 0, ds = it.has ? it.delta * dz - miss : 0;
      float slope = fmaxf(ratio(-ds, it.s), ratio(-dz, it.z));
      steepest = it.has ? fmaxf(steepest, slope) : steepest;
      sums[0] += product;  // zero where there is no side, as z is
      sums[1] += it.s * dz + it.z * ds;
      sums[2] += ds * dz;
      table.change()[k * ns + side] = corrector ? dz : ds * dz;
    }
  }
  conclude(steepest, sums, corrector, status);
}

// Back over the stages: what the second-order term and the centre add to the gradient.
DEVICE void correct(const Places &at, const Problem &of, const Tables &table, const Status &status) {
  int c = lane();
  float p = 0, saved = 0;
  for (int k = N - 1; k >= 0; k--) {
    __syncwarp();
    float ba[nx];
    load_BA(of, k, ba);
    Transit_G G;
    Transit_T T;
    G.fetch(of, k);
    T.fetch(table, k);
    int input = k * nu + (c < nu ? c : 0);
    float rate = of.S[input], predicted = table.t()[input];
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (side >= ns) continue;
      float s = table.s()[k * ns + side], z = table.z()[k * ns + side], delta = table.delta()[k * ns + side];
      work.push[side] = delta > 0 ? ratio(status.centre - table.change()[k * ns + side], s + delta * z) : 0;
    }
    G.place();
    T.place();
    __syncwarp();
    float t;
    p = linear_before(ba, table.T(k), rate, p, pull(at, work.G, work.push), t, saved);
    if (c < nu) table.t()[input] = predicted + t;
  }
}

// Whether the states are rolled out in every iteration. States that are stepped drift from their inputs: held against a fall,
// by 1e-6 of the cost over 100 stages and by 3e-5 over 400. With few it is nothing, and to read B and A once more is not.
constexpr bool rolls = N > 64;

// Takes the step, and says whether to go on: whether the new iterate is not good enough yet.
DEVICE bool move(const Problem &of, const Tables &table, Status &status) {
  int c = lane();
  float step = status.step, gap = 0, cost = 0, terms = 0, excess[chunks + 1], size[chunks + 1];
#pragma unroll
  for (int i = 0; i < chunks; i++) excess[i] = size[i] = 0;
  __syncwarp();
  if (!(step > 0)) return false;
  float before = table.point()[c < n ? c : n - 1];
  for (int k = 0; k < N; k++) {
    // First what the sides make of the old plan.
    float s[chunks + 1], z[chunks + 1], limit[chunks + 1];
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      limit[i] = INF;
      if (side >= ns) continue;
      Side it = side_of(of, table, k, side);
      if (it.has) {
        float dz = table.change()[k * ns + side];
        float ds = it.delta * dz - it.off - value_of(table.move(k), table.climb(k), side);
        s[i] = it.s + step * ds;
        z[i] = it.z + step * dz;
        limit[i] = limit_of(of, k, side);
        table.s()[k * ns + side] = s[i];
        table.z()[k * ns + side] = z[i];
      }
    }
    Column column = column_of(of, table.point(), k);
    float moved = column.value + step * table.move(k)[c < n ? c : n - 1];
    if (rolls) {
      float after = state_after(of, k, c < nu ? moved : before);
      moved = c >= nu && c < n ? after : moved;
    }
    __syncwarp();
    if (c < n) table.point()[(k + 1) * n + c] = moved;
    for (int i = c; i < m; i += 32) table.at()[k * m + i] += step * table.climb(k)[i];
    __syncwarp();
    float off = moved - column.reference, by = moved - before;
    before = moved;
    cost += 0.5f * (column.weight * off * off + column.rate * by * by);
    terms += fabsf(column.weight) * (moved * moved + column.reference * column.reference);
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (limit[i] < INF) {
        float value = value_of(table.point() + (k + 1) * n, table.at() + k * m, side), over = value - limit[i];
        gap += z[i] * fabsf(over);
        excess[i] = fmaxf(excess[i], over);
        if (!bounds_state(side)) {
          size[i] = fmaxf(size[i], side < 2 * nb ? fmaxf(fabsf(value), status.least) : status.size[i]);
        }
      }
      if (bounds_state(side)) {  // what the state reaches, x_0 included, bounded there or not
        float earlier = value_of(table.point() + k * n, nullptr, side), later = value_of(table.point() + (k + 1) * n, nullptr, side);
        size[i] = fmaxf(size[i], fmaxf(fabsf(earlier), fabsf(later)));
      }
    }
  }
  float worst = 0;
#pragma unroll
  for (int i = 0; i < chunks; i++) worst = fmaxf(worst, excess[i] / fmaxf(size[i], 1e-30f));
  worst = most(worst);
  gap = sum(gap);
  cost = sum(cost);
  terms = sum(terms);
  float scale = fmaxf(cost, 1.1920929e-5f * terms + 1e-30f);  // the cost, or the rounding of its terms
  status.unbalanced *= (1 - step) * (1 - step);
  bool good = gap + status.unbalanced <= 0.5f * tolerance * scale && worst <= 0.5f * tolerance;
  return !good && scale + gap < INF;
}
