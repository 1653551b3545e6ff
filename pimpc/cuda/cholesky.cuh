// Cholesky's factorization of the Hessian of the free inputs by panels of eight columns, and its two halves of a solution.

DEVICE void load_panel(const float *from, float (&to)[panel]) {
#pragma unroll
  for (int j = 0; j < panel; j += 4) {
    float4 v = *(const float4 *)(from + j);
    to[j] = v.x;
    to[j + 1] = v.y;
    to[j + 2] = v.z;
    to[j + 3] = v.w;
  }
}

// Factorizes the columns of a panel, those before it being done. Lanes have their last `seats` rows in registers, and all of
// them the panel's corner: eight shuffles less for each column to wait for. In the corner L has a unit diagonal, in place of
// which 1 / L_kk is kept; below it, and in the row of the right-hand side, L is Cholesky's.
template <int seats>
DEVICE void factorize_panel(int from, int total) {
  Condensed &it = condensed();
  constexpr int first_half = halves - seats;
  int base = from % 32;  // the first lane of those that have the corner's rows, as P[0]
  float P[seats][panel], C[panel][panel];
#pragma unroll
  for (int s = 0; s < seats; s++) load_panel(it.H[lane() + 32 * (first_half + s)] + from, P[s]);
#pragma unroll 8
  for (int k = 0; k < from; k++) {
    float right[panel], left[seats];
    load_panel(it.H[k] + from, right);
#pragma unroll
    for (int s = 0; s < seats; s++) left[s] = it.H[k][lane() + 32 * (first_half + s)];
#pragma unroll
    for (int s = 0; s < seats; s++)
#pragma unroll
      for (int j = 0; j < panel; j++) P[s][j] -= left[s] * right[j];
  }
#pragma unroll
  for (int j = 0; j < panel; j++)
#pragma unroll
    for (int i = j; i < panel; i++) C[i][j] = __shfl_sync(ALL, P[0][j], base + i);
  int place[seats];
  bool in_corner[seats];
#pragma unroll
  for (int s = 0; s < seats; s++) {
    place[s] = lane() + 32 * (first_half + s) - from;
    in_corner[s] = place[s] < panel && from + place[s] != total;
  }
#pragma unroll
  for (int j = 0; j < panel; j++) {
    float inverse = ratio(1, C[j][j]);
#pragma unroll
    for (int i = j + 1; i < panel; i++) {
      float by = C[i][j] * inverse;
#pragma unroll
      for (int l = i; l < panel; l++) C[l][i] -= C[l][j] * by;
#pragma unroll
      for (int s = 0; s < seats; s++) P[s][i] -= P[s][j] * by;
    }
    // A Hessian that is not positive definite must not pass for one.
    float root = C[j][j] > 0 ? rsqrtf(C[j][j]) : NOT_A_NUMBER;
#pragma unroll
    for (int s = 0; s < seats; s++) {
      float entry = P[s][j] * (in_corner[s] ? inverse : root);
      if (place[s] >= j) it.H[from + j][from + place[s]] = place[s] == j ? root : entry;
    }
  }
  __syncwarp();
}

// Factorizes the Hessian; the right-hand side's first half is left in b.
DEVICE void factorize_all(int total, float (&b)[halves]) {
  for (int from = 0; from <= total; from += panel) {
    if (from < 32) factorize_panel<halves>(from, total);
    else factorize_panel<1>(from, total);
  }
#pragma unroll
  for (int half = 0; half < halves; half++) {
    int f = lane() + 32 * half;
    b[half] = f < total ? condensed().H[f][total] : 0;
  }
}

// All lanes know what a panel's rows come to; keeps it for the lanes that have these rows.
DEVICE void keep_panel(int from, const float (&y)[panel]) {
  float *v = condensed().v + from;
  if (lane() == 0) {
    *(float4 *)v = make_float4(y[0], y[1], y[2], y[3]);
    *(float4 *)(v + 4) = make_float4(y[4], y[5], y[6], y[7]);
  }
}

DEVICE void collect_panels(int total, float (&b)[halves]) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++) {
    int row = lane() + 32 * half;
    b[half] = row < total ? condensed().v[row] : 0;
  }
  __syncwarp();
}

// b := L^-1 b.
DEVICE void solve_forth(float (&b)[halves], int total) {
  const Condensed &it = condensed();
#pragma unroll 2
  for (int from = 0; from < total; from += panel) {
    float corner[panel][panel], below[halves][panel], y[panel], mine = from < 32 ? b[0] : b[1];
#pragma unroll
    for (int i = 0; i < panel; i++) {
      y[i] = __shfl_sync(ALL, mine, from % 32 + i);
      load_panel(it.H[from + i] + from, corner[i]);
#pragma unroll
      for (int half = 0; half < halves; half++) below[half][i] = it.H[from + i][lane() + 32 * half];
    }
#pragma unroll
    for (int i = 0; i < panel; i++) {
#pragma unroll
      for (int j = i + 1; j < panel; j++) y[j] -= corner[i][j] * y[i];
      y[i] *= corner[i][i];
#pragma unroll
      for (int half = 0; half < halves; half++) b[half] -= below[half][i] * y[i];  // rows above are done with
    }
    keep_panel(from, y);
  }
  collect_panels(total, b);
}

// b := L^-T b.
DEVICE void solve_back(float (&b)[halves], int total) {
  const Condensed &it = condensed();
#pragma unroll 2
  for (int from = (total - 1) / panel * panel; from >= 0; from -= panel) {
    float corner[panel][panel], above[halves][panel], x[panel], mine = from < 32 ? b[0] : b[1];
#pragma unroll
    for (int half = 0; half < halves; half++) load_panel(it.H[lane() + 32 * half] + from, above[half]);
#pragma unroll
    for (int i = 0; i < panel; i++) {
      load_panel(it.H[from + i] + from, corner[i]);
      x[i] = corner[i][i] * __shfl_sync(ALL, mine, from % 32 + i);
    }
#pragma unroll
    for (int i = panel - 1; i >= 0; i--) {
#pragma unroll
      for (int j = 0; j < i; j++) x[j] -= corner[j][i] * x[i];
#pragma unroll
      for (int half = 0; half < halves; half++) b[half] -= above[half][i] * x[i];  // rows below are done with
    }
    keep_panel(from, x);
  }
  collect_panels(total, b);
}
