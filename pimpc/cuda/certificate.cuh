// A proof that no inputs of comparable size are feasible, from the last step of the forces (see `pimpc.infeasibility`).

// `natural`: lane c has the size of input c at the start. Of the step nothing but what proves remains.
DEVICE bool certifies(const Places &at, const Problem &of, const Tables &table, float natural) {
  int c = lane();
  float support = 0, size = 0, reach = 0, radius = natural, p = 0;
  if (c < nu)
    for (int k = 0; k < N; k++) radius = fmaxf(radius, fabsf(table.point()[(k + 1) * n + c]));
  for (int k = N - 1; k >= 0; k--) {
    const float *point = table.point() + (k + 1) * n;
    float *step = table.last_change() + k * ns;
    __syncwarp();
    work.v[c] = c < nu ? point[c] : 0;
    const float *G = load_G(of, k);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = c + 32 * i;
      if (side >= ns || (side >= nb && side < 2 * nb)) continue;
      // The first lane of a column looks after both of its sides.
      bool column = side < nb;
      float by = column ? step[nb + side] - step[side] : step[side], value = column ? point[side] : climb_of(at, i, G);
      float ahead = by > 0 ? limit_of(of, k, column ? nb + side : side) - value : INF;
      if (column && by < 0) ahead = value + limit_of(of, k, side);
      if (by != 0 && fabsf(ahead) < INF) {
        support += fabsf(by) * ahead;
        size += fabsf(by) * fmaxf(fabsf(value), fabsf(ahead));
      } else {
        step[side] = 0;
        if (column) step[nb + side] = 0;
      }
    }
    __syncwarp();
    float pulled = pull(at, G, step);
    if (nb > nu) {  // by bounds of states, through the dynamics
      float ba[nx], costate[nx], before = 0;
      load_BA(of, k, ba);
      work.v[c] = c < nu ? 0 : pulled + p;
      __syncwarp();
      load_vector<nx>(work.v + nu, costate);
#pragma unroll
      for (int j = 0; j < nx; j++) before += costate[j] * ba[j];
      if (c < nu) pulled += before;
      else p = before;
    }
    if (c < nu && !is_fixed(of, k, c)) reach += fabsf(pulled) * 1e3f * radius;
  }
  support = -sum(support);
  return support > 0 && support > sum(reach) && support > 1e-3f * sum(size);
}
