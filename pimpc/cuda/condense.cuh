// The Hessian of the free inputs: without the barrier, from the stages; and then with it.

// Column `lane` of a stage's [B, A], and all of them in Work::E.
DEVICE void spread_BA(const Problem &of, int k, float (&ba)[nx]) {
  load_BA(of, k, ba);
  __syncwarp();
#pragma unroll
  for (int j = 0; j < nx; j++) work.E[j][lane()] = ba[j];
  __syncwarp();
}

// With P_k the Hessian of the cost of x_{k+1} and what follows without inputs, and W the derivative of x_{k+1} by all earlier
// inputs, the rows of stage k are B_k' P_k W, and the weights of inputs and of their rates. This is B_k' P_k, one stage after
// the other from the last, in the place of those rows. P_k is in Work::X.
DEVICE void costates(const Problem &of, const Tables &table, int total) {
  int c = lane(), row = total;
  float P[nx];
#pragma unroll
  for (int j = 0; j < nx; j++) P[j] = 0;
  for (int k = N - 1; k >= 0; k--) {
    float ba[nx], PBA[nx];
    spread_BA(of, k, ba);
    if (c >= nu && c < n) {
#pragma unroll
      for (int j = 0; j < nx; j++) work.X[c - nu][j] = P[j];
    }
    __syncwarp();
    if (c < nx) work.X[c][c] += of.Q[k * nx + c];
    __syncwarp();
    unsigned free = table.free()[k];
    row -= __popc(free);
#pragma unroll
    for (int j = 0; j < nx; j++) {
      float by[nx];
      load_vector<nx>(work.X[j], by);
      PBA[j] = 0;
#pragma unroll
      for (int l = 0; l < nx; l++) PBA[j] += by[l] * ba[l];
      P[j] = 0;
    }
    if (c < nu && (free >> c & 1)) {
      float *to = condensed().H[row + __popc(free & below(c))];
#pragma unroll
      for (int j = 0; j < nx; j++) to[j] = PBA[j];
    }
#pragma unroll
    for (int l = 0; l < nx; l++) {
      float by[nx];
      load_vector<nx>(work.E[l] + nu, by);
#pragma unroll
      for (int j = 0; j < nx; j++) P[j] += by[j] * PBA[l];
    }
  }
  __syncwarp();
}

// The Hessian without the barrier.
DEVICE void condense(const Problem &of, const Tables &table, const Seat (&seat)[halves], int total) {
  Condensed &it = condensed();
  costates(of, table, total);
  float w[halves][nx], weight[halves], rate[halves];
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    rate[half] = own.k + 1 < N ? of.S[own.spot + nu] : 0;
    weight[half] = own.taken ? of.R[own.spot] + of.S[own.spot] + rate[half] : 1;
#pragma unroll
    for (int j = 0; j < nx; j++) w[half][j] = 0;
  }
  int row = 0;
  float next[nx];
  load_vector<nx>(it.H[0], next);
  for (int k = 0; k < N; k++) {
    float ba[nx];
    spread_BA(of, k, ba);
    float moved[halves][nx];
#pragma unroll
    for (int j = 0; j < nx; j++) {
      float by[nx];
      load_vector<nx>(work.E[j] + nu, by);
#pragma unroll
      for (int half = 0; half < halves; half++) {
        moved[half][j] = 0;
#pragma unroll
        for (int l = 0; l < nx; l++) moved[half][j] += by[l] * w[half][l];
        if (seat[half].taken && seat[half].k == k) moved[half][j] = work.E[j][seat[half].c];
      }
    }
#pragma unroll
    for (int half = 0; half < halves; half++)
#pragma unroll
      for (int j = 0; j < nx; j++) w[half][j] = moved[half][j];
    for (unsigned left = table.free()[k]; left; left &= left - 1) {
      float here[nx], entry[halves];
#pragma unroll
      for (int j = 0; j < nx; j++) here[j] = next[j];
      load_vector<nx>(it.H[row + 1], next);  // before it may be overwritten
      int spot = it.spot[row];
#pragma unroll
      for (int half = 0; half < halves; half++) {
        entry[half] = 0;
#pragma unroll
        for (int j = 0; j < nx; j++) entry[half] += here[j] * w[half][j];
        if (seat[half].f == row) entry[half] += weight[half];
        if (seat[half].taken && seat[half].spot + nu == spot) entry[half] -= rate[half];
      }
      __syncwarp();
#pragma unroll
      for (int half = 0; half < halves; half++) it.H[row][seat[half].f] = entry[half];
      row++;
    }
  }
  for (; row <= total || row % panel != 0; row++)
#pragma unroll
    for (int half = 0; half < halves; half++) it.H[row][seat[half].f] = 0;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++)
    for (int i = 0; i < seat[half].count; i++) it.own[seat[half].f][i] = it.H[seat[half].f][seat[half].first + i];
  __syncwarp();
}

// Renews the blocks on the Hessian's diagonal, G' D G with D = stiff_of_sides() included if there is a barrier, and the row
// of the right-hand side.
DEVICE void renew(const Seat (&seat)[halves], int total, bool barrier, const float (&right)[halves]) {
  Condensed &it = condensed();
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    float *row = it.H[own.f];
    if (!own.taken) {
      row[own.f] = own.f == total ? 1e30f : 1;  // the right-hand side is no pivot
      continue;
    }
    it.H[total][own.f] = right[half];
    const Block &at = own.block;
    const float *G = it.G + own.k * stride_G, *stiff = stiff_of_sides() + own.k * ns;
    float H[most_columns + 1], diagonal = 0;
#pragma unroll
    for (int i = 0; i <= most_columns; i++) H[i] = 0;
    if (barrier) {
      if (nb > 0) diagonal = stiff[own.c] + stiff[nb + own.c];
      if (m > 0) {
#pragma unroll 6
        for (int l = 0; l < lines; l++) {
          if (!same_rows && l >= at.rows_count) break;
          const float *line = G + l * nu, *first = line + at.first_column;
          float f = stiff[2 * nb + at.rows_first + l] * line[own.c];
#pragma unroll
          for (int i = 0; i < most_columns; i += 2) {
            float2 g = pairs ? *(const float2 *)(first + i) : make_float2(first[i], i + 1 < most_columns ? first[i + 1] : 0);
            H[i] += g.x * f;
            H[i + 1] += g.y * f;
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < most_columns; i++) {
      int c = at.first_column + i;
      if (c < at.columns_end && c <= own.c && (own.free >> c & 1)) {
        int place = __popc(own.free & below(c));
        row[own.first + place] = it.own[own.f][place] + H[i] + (c == own.c ? diagonal : 0);
      }
    }
  }
  __syncwarp();
}

// The Hessian without the barrier, which takes the place of the other one, times Condensed::v, for each seat.
DEVICE void times_hessian(const Seat (&seat)[halves], int total, float (&product)[halves]) {
  Condensed &it = condensed();
  __syncwarp();
#pragma unroll
  for (int half = 0; half < halves; half++) {
    const Seat &own = seat[half];
    for (int i = 0; i < own.count && own.first + i <= own.f; i++) it.H[own.f][own.first + i] = it.own[own.f][i];
  }
  __syncwarp();
  float sums[halves][2] = {{0, 0}, {0, 0}};
#pragma unroll
  for (int half = 0; half < halves; half++) {
    int f = seat[half].f;
#pragma unroll
    for (int first = 0; first < rows_of_H; first += 32) {
#pragma unroll 4
      for (int c = first; c < first + 32; c += 4) {
        if (c >= total) break;  // what follows in the last four rows has zeros for the way
        float4 v = *(const float4 *)(it.v + c), row = *(const float4 *)(it.H[f] + c);
        float by[4] = {v.x, v.y, v.z, v.w}, left[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          // Wherever the half decides which triangle it is, only one of them is read.
          float entry = first / 32 < half || (first / 32 == half && c + i <= f) ? left[i] : it.H[c + i][f];
          sums[half][i % 2] += entry * by[i];
        }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < halves; half++) product[half] = seat[half].taken ? sums[half][0] + sums[half][1] : 0;
}
