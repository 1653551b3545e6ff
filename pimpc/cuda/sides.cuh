// What is known of the sides, and what becomes of them, whichever way steps are computed.

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
