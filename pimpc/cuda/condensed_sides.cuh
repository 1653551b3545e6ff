// The sides of a problem whose states are eliminated, in the order of their places and not of stages (see `place_of`). A lane
// takes four of them, whose numbers are next to each other, and so are their numbers in a column of G.

// How far a step moves four sides.
DEVICE void climb_of_four(int e, float (&climb)[4]) {
  const float *step = step_of_inputs();
  if (nb > 0 && e >= work.lower_sides) {
    bool upper = e >= work.upper_sides;
    load_four(step + e - (upper ? work.upper_sides : work.lower_sides), climb);
#pragma unroll
    for (int i = 0; i < 4; i++) climb[i] = upper ? climb[i] : -climb[i];
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) climb[i] = 0;
  if (m == 0) return;
  const Condensed &it = condensed();
  int block = e / most_lines, first = it.first_free[block], count = it.free_count[block];
  const float *column = it.G + first * tall + e - block * most_lines;
#pragma unroll
  for (int j = 0; j < most_columns; j++) {
    if (j >= count) continue;
    float g[4], by = step[first + j];
    load_four(column + j * tall, g);
#pragma unroll
    for (int i = 0; i < 4; i++) climb[i] += g[i] * by;
  }
}

// The numbers of four sides.
struct Four {
  float s[4], z[4], delta[4], excess[4];
  float off[4];     // how far s is from the distance to the bound
  float yields[4];  // 1 / (s + delta z); 0: it is no side, and has s = 1, z = 0 and no excess

  DEVICE Four(const Tables &table, int e) {
    load_four(table.s() + e, s);
    load_four(table.z() + e, z);
    load_four(table.delta() + e, delta);
    load_four(table.at() + e, excess);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      off[i] = has(i) ? excess[i] + s[i] : 0;
      yields[i] = has(i) ? ratio(1, s[i] + delta[i] * z[i]) : 0;
    }
  }
  DEVICE bool has(int i) const { return delta[i] > 0; }
};

// From the values of the rows to how far all sides are from their limits.
DEVICE void compare_sides(const Problem &of, const Tables &table, int places) {
  for (int k = 0; k < N; k++)
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i, e = side < ns ? place_of(table, k, side) : room_of_sides - 1;
      if (table.delta()[e] > 0) table.at()[e] = value_in(table, k, side) - limit_of(of, k, side);
    }
  __syncwarp();
  for (int e = lane(); e < places; e += 32) {
    if (table.delta()[e] > 0) continue;
    table.s()[e] = 1;
    table.z()[e] = table.at()[e] = 0;
  }
  __syncwarp();
}

// Puts forces and their last change in the order of stages, where a Hessian may still be on its way.
DEVICE void sort_sides(const Tables &table) {
  arrive();
  for (int k = 0; k < N; k++)
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i;
      if (side >= ns) continue;
      int e = place_of(table, k, side);
      bool has = table.delta()[e] > 0;
      table.forces()[k * ns + side] = has ? table.z()[e] : 0;
      table.last_change()[k * ns + side] = has ? table.change()[e] : 0;
    }
  __syncwarp();
}

// What the sides push with before there are any: nothing, or the multipliers of a warm start.
DEVICE void push_as_known(const Tables &table, const Multipliers &known, bool any, int places) {
  __syncwarp();
  for (int e = lane(); e < places; e += 32) table.push()[e] = 0;
  __syncwarp();
  for (int k = 0; warm_started && any && k < N; k++)
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i;
      if (side >= nb && side < ns) table.push()[place_of(table, k, side)] = multiplier_of(known, k, side);
    }
  __syncwarp();
}
