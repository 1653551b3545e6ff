// What is known of the sides, and what becomes of them, whichever way steps are computed.

DEVICE unsigned below(int c) { return (1u << c) - 1; }

// Where a side's numbers are: by stages, ns for each. If states are eliminated only what touches free inputs has a place: the
// rows of one block of one stage after the other, then the lower bounds of all free inputs, and then the upper ones. All other
// sides share the last place, which says that they are none.
DEVICE int place_of(const Tables &table, int k, int side) {
  if (!condenses) return k * ns + side;
  int r = side - 2 * nb;
  if (r >= 0) {
    int b = 0, start = 0, row = 0;
#pragma unroll
    for (int i = 0; i < blocks; i++) {
      if (r >= row) b = i, start = row;
      row += block_rows[i];
    }
    int first = work.first_row[k * parts + b];
    return first < 0 ? room_of_sides - 1 : first + r - start;
  }
  int c = side < nb ? side : side - nb;
  unsigned free = table.free()[k];
  int f = work.first_free[k] + __popc(free & below(c));
  return free >> c & 1 ? (side < nb ? work.lower_sides : work.upper_sides) + f : room_of_sides - 1;
}

// Where the value of a row of G is.
DEVICE int place_of_row(const Tables &table, int k, int r) { return condenses ? place_of(table, k, 2 * nb + r) : k * m + r; }

// The value of a side at the plan in the table, where those of the rows are known.
DEVICE float value_in(const Tables &table, int k, int side) {
  if (side < 2 * nb) return value_of(table.point() + (k + 1) * n, nullptr, side);
  return side < ns ? table.at()[place_of_row(table, k, side - 2 * nb)] : 0;
}

// Signed multipliers, positive at the upper bound: of the rows of G, of the inputs, of the states. Those of what is no side
// count as zero if the tables, `only`, say what is one.
struct Multipliers {
  const float *rows, *inputs, *states;
  const Tables *only;
};

DEVICE float multiplier_of(const Multipliers &of, int k, int side) {
  int c = side < nb ? side : side - nb;
  bool counts = !of.only || of.only->delta()[place_of(*of.only, k, side)] > 0;
  if (side >= 2 * nb) return m == 0 || !counts ? 0 : of.rows[k * m + side - 2 * nb];
  if (!counts && !(of.only->delta()[place_of(*of.only, k, side < nb ? side + nb : side - nb)] > 0)) return 0;
  if (c < nu) return bounds_inputs ? of.inputs[k * nu + c] : 0;
  return of.states[k * nx + c - nu];
}

// What the passes of an iteration tell each other.
struct Status {
  float unbalanced;  // what the gradient of the Lagrangian may still cost
  float count;       // of the sides
  float least;       // below it, the size of an input counts as this
  float centre;      // what s z is aimed at
  float step;
  float size[chunks + 1];  // of the lane's sides that are rows: the most that their terms amount to in a stage
};

// How far a step may go, or what its successor is aimed at: from the steepest relative fall of a slack or a force, and the
// sums over the lane's sides of s z, s dz + z ds and ds dz.
DEVICE void conclude(float steepest, float (&sums)[3], bool corrector, Status &status) {
  float reach = ratio(1, most(steepest));
#pragma unroll
  for (int i = 0; i < 3; i++) sums[i] = sum(sums[i]);
  if (corrector) {
    bool sound = fabsf(sums[1] + sums[2]) < INF;  // what is not a number may get lost in a maximum, but not in a sum
    status.step = sound ? fminf(1.0f, boundary * reach) : 0;
    return;
  }
  reach = fminf(1.0f, reach);
  float mu = sums[0] / status.count, ahead = (sums[0] + reach * (sums[1] + reach * sums[2])) / status.count;
  float left = ahead / (mu > 0 ? mu : 1);
  status.centre = mu * left * left * left;
}
