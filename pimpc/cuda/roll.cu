extern "C" __global__ void __launch_bounds__(32)
    roll(PROBLEM_ARGUMENTS, const float *u, float *x) {
  Problem of = PROBLEM_OF_BLOCK;
  long long b = blockIdx.x;
  int c = lane();
  float here = c >= nu && c < n ? of.x0[c - nu] : 0;
  if (c >= nu && c < n) x[b * (N + 1) * nx + c - nu] = here;
  for (int k = 0; k < N; k++) {
    float ba[nx];
    load_BA(of, k, ba);
    float e = c >= nu && c < n ? of.e[k * nx + c - nu] : 0;
    here = ahead(ba, c < nu ? u[(b * N + k) * nu + c] : here) + e;
    if (c >= nu && c < n) x[(b * (N + 1) + k + 1) * nx + c - nu] = here;
  }
}
