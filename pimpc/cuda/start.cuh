// Where `pimpc.interior_point` starts: the unconstrained optimum, or a warm start that is near enough to the optimum, with
// centred slacks and forces (see `pimpc.centring`).

// How far a unit of force moves a side, inputs yielding as the Hessian's diagonal says: Work::u.
DEVICE float compliance_of(const Places &at, const Problem &of, int k, int i, const float *G) {
  int side = lane() + 32 * i;
  if (side >= 2 * nb) {
    float total = 0;
    const float *row = G + at.row[i], *by = work.u + at.first[i];
    if (m > 0) {
#pragma unroll
      for (int j = 0; j < most_columns; j++)
        if (j < at.count[i]) total += row[j] * row[j] * by[j];
    }
    return total;
  }
  int c = side < nb ? side : side - nb;
  return c < nu ? work.u[c] : of.give_x[k * nx + c - nu];
}

DEVICE bool is_fixed(const Problem &of, int k, int c) {
  return has_u_min && has_u_max && of.u_min[k * nu + c] == of.u_max[k * nu + c];
}

// The nearest value within the bounds of input `c`.
DEVICE float within_bounds(const Problem &of, int k, int c, float v) {
  if (has_u_min) v = fmaxf(v, of.u_min[k * nu + c]);
  if (has_u_max) v = fminf(v, of.u_max[k * nu + c]);
  return v;
}

// Finds the free inputs and the sides, of which there are `count`; says whether bounds exclude each other, or exclude what
// no free input moves. Needs a plan, and fills in its rows' values.
DEVICE bool measure(const Places &at, const Problem &of, const Tables &table, float &count) {
  int c = lane();
  bool contradiction = false;
  count = 0;
  Coming_G coming(of);
  for (int k = 0; k < N; k++) {
    __syncwarp();
    bool fixed = c < nu && is_fixed(of, k, c);
    unsigned free = __ballot_sync(ALL, c < nu && !fixed);
    if (c == 0) table.free()[k] = free;
    float curvature = 0;
    if (c < nu) {
      curvature = of.R[k * nu + c] + of.S[k * nu + c] + (k + 1 < N ? of.S[(k + 1) * nu + c] : 0);
#pragma unroll
      for (int j = 0; j < nx; j++) {
        float b = of.B[(k * nx + j) * nu + c];
        curvature += of.Q[k * nx + j] * b * b;
      }
    }
    work.u[c] = c < nu && !fixed ? 1.0f / curvature : 0;
    work.v[c] = c < nu ? table.point()[(k + 1) * n + c] : 0;
    const float *G = coming.at(of, k);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (side >= ns) continue;
      float give = compliance_of(at, of, k, i, G), limit = limit_of(of, k, side);
      bool has = give > 0 && limit < INF;
      table.delta()[place_of(table, k, side)] = has ? give / proximal : 0;
      count += has ? 1 : 0;
      if (side >= 2 * nb) table.at()[place_of_row(table, k, side - 2 * nb)] = climb_of(at, i, G);
      if (give <= 0 && limit < INF) {
        float value = side < 2 * nb ? value_in(table, k, side) : climb_of(at, i, G);
        float reach = side < 2 * nb ? fabsf(value) : reach_of(at, i, G, 0);
        contradiction |= value - limit - tolerance * (reach + fabsf(limit)) > 0;
      }
      // The limits of a column's two sides: -lower and upper.
      if (side < nb) contradiction |= limit + limit_of(of, k, side + nb) < 0;
    }
  }
  count = fmaxf(sum(count), 1.0f);
  __syncwarp();
  return __any_sync(ALL, contradiction);
}

// What a plan says of the problem.
struct Survey {
  float energy;  // what it takes to move every row as far as the plan reaches, or as its bound is away; no judge asks
  float cost, floor, scale;  // the cost counts as no less than the rounding of its terms
  float least;   // input that counts
  float largest; // lane c: input c over the horizon
};

DEVICE Survey survey(const Places &at, const Problem &of, const Tables &table) {
  int c = lane();
  float energy = 0, cost = 0, terms = 0, largest = 0;
  float asked = c < nu ? fabsf(within_bounds(of, 0, c, of.u_prev[c])) : 0, smallest = INF;  // of the bounds but zero
  Coming_G coming(of);
  for (int k = 0; k < N; k++) {
    __syncwarp();
    Column column = column_of(of, table.point(), k);
    work.v[c] = c < nu ? column.value : 0;
    const float *G = coming.at(of, k);
    float off = column.value - column.reference, by = c < nu ? column.value - column.before : 0;
    cost += 0.5f * (column.weight * off * off + column.rate * by * by);
    terms += fabsf(column.weight) * (column.value * column.value + column.reference * column.reference);
    if (c < nu) {
      largest = fmaxf(largest, fabsf(column.value));
      asked = fmaxf(asked, fabsf(within_bounds(of, k, c, column.reference)));
      float low = has_u_min ? fabsf(of.u_min[k * nu + c]) : 0, high = has_u_max ? fabsf(of.u_max[k * nu + c]) : 0;
      smallest = fminf(smallest, fminf(low > 0 ? low : INF, high > 0 ? high : INF));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (side >= ns || judges) continue;
      float climb = climb_of(at, i, G), delta = table.delta()[place_of(table, k, side)];
      if (side >= 2 * nb) table.at()[place_of_row(table, k, side - 2 * nb)] = climb;
      float value = side < 2 * nb ? value_in(table, k, side) : climb;
      float outside = delta > 0 ? value - limit_of(of, k, side) : 0;
      // Both sides of a column are one row.
      float other = side < nb ? table.delta()[place_of(table, k, side + nb)] : 0;
      if (other > 0) {
        outside = fmaxf(outside, -value - limit_of(of, k, side + nb));
        delta = fmaxf(delta, other);
      }
      if (side >= nb && side < 2 * nb) delta = 0;
      float span = fmaxf(side < 2 * nb ? fabsf(value) : reach_of(at, i, G, 0), outside);
      if (delta > 0) energy += span * span / (delta * proximal);
    }
  }
  __syncwarp();
  float floor = 1.1920929e-5f * sum(terms) + TINY;
  cost = sum(cost);
  smallest = -most(-smallest);
  float large = fmaxf(most(fmaxf(largest, asked)), smallest < INF ? smallest : 0);
  return {sum(energy), cost, floor, fmaxf(cost, floor), 0.01f * large, largest};
}

// The energy of what leaves its bounds, and the products of multiplier and slack inside them, at a plan whose rows' values
// are filled in. Says whether any multiplier is known.
DEVICE float mismatch(const Problem &of, const Tables &table, const Multipliers &known, bool &any) {
  float total = 0;
  bool found = false;
  for (int k = 0; k < N; k++)
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i;
      float delta = side < ns ? table.delta()[place_of(table, k, side)] : 0;
      if (delta <= 0) continue;
      float force = multiplier_of(known, k, side);
      found |= force != 0;
      if (side < nb) force = -force;
      float distance = limit_of(of, k, side) - value_in(table, k, side);
      total += distance < 0 ? distance * distance / (delta * proximal) : distance * fmaxf(force, 0.0f);
    }
  any = __any_sync(ALL, found);
  return sum(total);
}

// Slack s and force z with s z = mu that keep s - give z where it is.
DEVICE void centre(float distance, float force, float mu, float give, float &s, float &z) {
  float length = sqrtf(give), gap = distance / length - fmaxf(force, 0.0f) * length;
  float large = 0.5f * (fabsf(gap) + sqrtf(gap * gap + 4 * mu)), small = mu / large;
  s = (gap > 0 ? large : small) * length;
  z = (gap > 0 ? small : large) / length;
}

// Fills in slacks and forces; returns what that may cost.
DEVICE float centre_all(const Problem &of, const Tables &table, const Multipliers &known, bool warm, float mu) {
  float lifted = 0;
  __syncwarp();
  for (int k = 0; k < N; k++)
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i;
      if (side >= ns) continue;
      int place = place_of(table, k, side);
      float delta = table.delta()[place], give = delta * proximal, s = 1, z = 0, value = value_in(table, k, side);
      float dual = warm ? multiplier_of(known, k, side) : 0, total = dual;
      if (delta > 0) {
        centre(limit_of(of, k, side) - value, side < nb ? -dual : dual, mu, give, s, z);
        total = side < nb ? -z : z;
      }
      // The two sides of a column act on one row: its first lane counts them both.
      float other = side < nb ? table.delta()[place_of(table, k, side + nb)] : 0;
      if (other > 0) {
        float upper_s, upper_z;
        centre(limit_of(of, k, side + nb) + value, dual, mu, other * proximal, upper_s, upper_z);
        total = (delta > 0 ? total : 0) + upper_z;
        give = other * proximal;
      }
      bool counts = side < nb ? delta > 0 || other > 0 : delta > 0 && side >= 2 * nb;
      if (counts) lifted += give * (total - dual) * (total - dual);
      table.s()[place] = s;
      table.z()[place] = z;
    }
  __syncwarp();
  return sum(lifted);
}

// Rolls out inputs, or none, as far as their bounds allow.
DEVICE void plan(const Problem &of, const Tables &table, const float *u) {
  int c = lane();
  __syncwarp();  // other lanes may still read the plan before
  if (c < nu) {
    for (int k = 0; k < N; k++) {
      table.point()[(k + 1) * n + c] = within_bounds(of, k, c, u ? u[k * nu + c] : 0);
    }
  }
  __syncwarp();
  roll_out(of, table.point());
}

// From a plan to the first iterate: the unconstrained optimum, or a warm start, which is `distance` away from the optimum,
// `excess` of it by its gradient.
DEVICE void start(const Problem &of, const Tables &table, const Survey &found, const Multipliers &known, bool warm,
                  float distance, float excess, Status &status) {
  status.least = found.least;
  float error = start_share * (warm ? distance : found.energy);
  float mu = fmaxf(error, 0.3f * tolerance * found.scale) / status.count + TINY;
  float root = sqrtf(warm ? excess : 0) + sqrtf(centre_all(of, table, known, warm, mu));
  status.unbalanced = root * root;
}
