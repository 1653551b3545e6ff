// Cholesky's factorization of the Hessian of the free inputs by panels of eight columns, in its place, and its two halves of a
// solution. Of L the transpose's rows are kept, and 1 / L_kk in place of its diagonal.

// Factorizes the columns of a panel, those before it being done. Lanes have their last `left` rows in registers, and all of
// them the panel's corner: eight shuffles less for each column to wait for. In the corner L has a unit diagonal, in place of
// which 1 / L_kk is kept; below it, and in the row of the right-hand side, L is Cholesky's.
template <int left>
DEVICE void factorize_panel(int from, int total) {
  int base = from % 32;  // the first lane of those that have the corner's rows, as P[0]
  int row[left];
  float *lines = row_of(from), P[left][panel], C[panel][panel];
#pragma unroll
  for (int s = 0; s < left; s++) {
    row[s] = lane() + from / 32 * 32 + 32 * s;
#pragma unroll
    for (int j = 0; j < panel; j++) P[s][j] = lines[j * stride_at(from) + row[s]];
  }
  for (int before = 0; before < from; before += panel) {
    const float *line = row_of(before);
#pragma unroll
    for (int k = 0; k < panel; k++) {
      float right[panel];
      load_panel(line + from, right);
#pragma unroll
      for (int s = 0; s < left; s++) {
        float by = line[row[s]];
#pragma unroll
        for (int j = 0; j < panel; j++) P[s][j] -= by * right[j];
      }
      line += stride_at(before);
    }
  }
#pragma unroll
  for (int j = 0; j < panel; j++)
#pragma unroll
    for (int i = j; i < panel; i++) C[i][j] = __shfl_sync(ALL, P[0][j], base + i);
#pragma unroll
  for (int j = 0; j < panel; j++) {
    float inverse = ratio(1, C[j][j]);
#pragma unroll
    for (int i = j + 1; i < panel; i++) {
      float by = C[i][j] * inverse;
#pragma unroll
      for (int l = i; l < panel; l++) C[l][i] -= C[l][j] * by;
#pragma unroll
      for (int s = 0; s < left; s++) P[s][i] -= P[s][j] * by;
    }
    // A Hessian that is not positive definite must not pass for one.
    float root = C[j][j] > 0 ? rsqrtf(C[j][j]) : NOT_A_NUMBER;
#pragma unroll
    for (int s = 0; s < left; s++) {
      int place = row[s] - from;
      bool in_corner = place < panel && row[s] != total, exists = rows_of_H % 32 == 0 || row[s] < rows_of_H;
      float entry = P[s][j] * (in_corner ? inverse : root);
      if (place >= j && exists) lines[j * stride_at(from) + row[s]] = place == j ? root : entry;
    }
  }
  __syncwarp();
}

// Factorizes the Hessian; the right-hand side's first half is left in b.
DEVICE void factorize_all(const Seat (&seat)[seats], int total, float (&b)[seats]) {
  int last = total / 32;
  for (int from = 0; from <= total; from += panel) {
    int left = last - from / 32;
    if (seats > 2 && left == 2) factorize_panel<3>(from, total);
    else if (seats > 1 && left == 1) factorize_panel<2>(from, total);
    else factorize_panel<1>(from, total);
  }
#pragma unroll
  for (int s = 0; s < seats; s++) b[s] = seat[s].taken ? seat[s].row[total] : 0;
}

// All lanes know what a panel's rows come to; keeps it for the lanes that have these rows.
DEVICE void keep_panel(int from, const float (&y)[panel]) {
  float *v = vector_of_inputs() + from;
  if (lane() == 0) {
    *(float4 *)v = make_float4(y[0], y[1], y[2], y[3]);
    *(float4 *)(v + 4) = make_float4(y[4], y[5], y[6], y[7]);
  }
}

DEVICE void collect_panels(const Seat (&seat)[seats], float (&b)[seats]) {
  __syncwarp();
#pragma unroll
  for (int s = 0; s < seats; s++) b[s] = seat[s].taken ? vector_of_inputs()[seat[s].f] : 0;
  __syncwarp();
}

// The seat's number that belongs to a panel's rows.
DEVICE float of_panel(const float (&b)[seats], int from) {
  float mine = b[0];
#pragma unroll
  for (int s = 1; s < seats; s++) mine = from / 32 == s ? b[s] : mine;
  return mine;
}

// b := L^-1 b.
DEVICE void solve_forth(const Seat (&seat)[seats], int total, float (&b)[seats]) {
#pragma unroll 2
  for (int from = 0; from < total; from += panel) {
    const float *line = row_of(from);
    float corner[panel][panel], below[seats][panel], y[panel], mine = of_panel(b, from);
#pragma unroll
    for (int i = 0; i < panel; i++) {
      y[i] = __shfl_sync(ALL, mine, from % 32 + i);
      load_panel(line + i * stride_at(from) + from, corner[i]);
#pragma unroll
      for (int s = 0; s < seats; s++) below[s][i] = line[i * stride_at(from) + seat[s].f];
    }
#pragma unroll
    for (int i = 0; i < panel; i++) {
#pragma unroll
      for (int j = i + 1; j < panel; j++) y[j] -= corner[i][j] * y[i];
      y[i] *= corner[i][i];
#pragma unroll
      for (int s = 0; s < seats; s++) b[s] -= below[s][i] * y[i];  // rows above are done with
    }
    keep_panel(from, y);
  }
  collect_panels(seat, b);
}

// b := L^-T b.
DEVICE void solve_back(const Seat (&seat)[seats], int total, float (&b)[seats]) {
#pragma unroll 2
  for (int from = panel_of(total - 1); from >= 0; from -= panel) {
    const float *line = row_of(from);
    float corner[panel][panel], above[seats][panel], x[panel], mine = of_panel(b, from);
#pragma unroll
    for (int s = 0; s < seats; s++) load_panel(seat[s].row + from, above[s]);
#pragma unroll
    for (int i = 0; i < panel; i++) {
      load_panel(line + i * stride_at(from) + from, corner[i]);
      x[i] = corner[i][i] * __shfl_sync(ALL, mine, from % 32 + i);
    }
#pragma unroll
    for (int i = panel - 1; i >= 0; i--) {
#pragma unroll
      for (int j = 0; j < i; j++) x[j] -= corner[j][i] * x[i];
#pragma unroll
      for (int s = 0; s < seats; s++) b[s] -= above[s][i] * x[i];  // rows below are done with
    }
    keep_panel(from, x);
  }
  collect_panels(seat, b);
}
