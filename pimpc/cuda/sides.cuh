// What is known of the sides before there is a step.

// Signed multipliers, positive at the upper bound: of the rows of G, of the inputs, of the states. Those of what is no side
// count as zero if `delta` says what is one.
struct Multipliers {
  const float *rows, *inputs, *states, *delta;
};

DEVICE float multiplier_of(const Multipliers &of, int k, int side) {
  int c = side < nb ? side : side - nb, i = k * ns + side;
  if (side >= 2 * nb) return m == 0 || (of.delta && of.delta[i] <= 0) ? 0 : of.rows[k * m + side - 2 * nb];
  if (of.delta && of.delta[i] <= 0 && of.delta[side < nb ? i + nb : i - nb] <= 0) return 0;
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
