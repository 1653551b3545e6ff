// The Hessian of the free inputs: without the barrier, from the stages; and then with it.

// What the lanes keep of the stage that comes next, which is in the other memory.
struct Coming {
  float ba[nx], q;  // column `lane` of [B, A]; a weight of a state

  DEVICE void fetch(const Problem &of, int k) {
    load_BA(of, k, ba);
    q = of.Q[k * nx + (lane() < nx ? lane() : 0)];
  }

  // Puts [B, A] into Work::E.
  DEVICE void spread() const {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < nx; j++) work.E[j][lane()] = ba[j];
    __syncwarp();
  }
};

// With P_k the Hessian of the cost of x_{k+1} and what follows without inputs, and W the derivative of x_{k+1} by all earlier
// inputs, the rows of stage k are B_k' P_k W, and the weights of inputs and of their rates. This is B_k' P_k, one stage after
// the other from the last, at the beginning of what will be the row of each input. P_k is in Work::X.
DEVICE void costates(const Problem &of, const Tables &table, int total) {
  int c = lane(), row = total;
  float P[nx];
#pragma unroll
  for (int j = 0; j < nx; j++) P[j] = 0;
  Coming coming;
  coming.fetch(of, N - 1);
  for (int k = N - 1; k >= 0; k--) {
    float PBA[nx];
    Coming here = coming;
    coming.fetch(of, k > 0 ? k - 1 : 0);
    here.spread();
    if (c >= nu && c < n) {
#pragma unroll
      for (int j = 0; j < nx; j++) work.X[c - nu][j] = P[j];
    }
    __syncwarp();
    if (c < nx) work.X[c][c] += here.q;
    __syncwarp();
    unsigned free = table.free()[k];
    row -= __popc(free);
#pragma unroll
    for (int j = 0; j < nx; j++) {
      float by[nx];
      load_vector<nx>(work.X[j], by);
      PBA[j] = 0;
#pragma unroll
      for (int l = 0; l < nx; l++) PBA[j] += by[l] * here.ba[l];
      P[j] = 0;
    }
    if (c < nu && (free >> c & 1)) {
      int f = row + __popc(free & below(c));
      float *to = row_of(f) + panel_of(f);
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

// The Hessian without the barrier, here and in the other memory, from which the stages come.
DEVICE void condense(const Problem &of, const Tables &table, const Seat (&seat)[seats], int total) {
  costates(of, table, total);
  float w[seats][nx], weight[seats], rate[seats];
#pragma unroll
  for (int s = 0; s < seats; s++) {
    const Seat &own = seat[s];
    rate[s] = own.k + 1 < N ? of.S[own.spot + nu] : 0;
    weight[s] = own.taken ? of.R[own.spot] + of.S[own.spot] + rate[s] : 0;
#pragma unroll
    for (int j = 0; j < nx; j++) w[s][j] = 0;
  }
  int row = 0;
  float next[nx];
  load_vector<nx>(row_of(0), next);
  Coming coming;
  coming.fetch(of, 0);
  for (int k = 0; k < N; k++) {
    Coming here = coming;
    coming.fetch(of, k + 1 < N ? k + 1 : k);
    here.spread();
    float moved[seats][nx];
#pragma unroll
    for (int j = 0; j < nx; j++) {
      float by[nx];
      load_vector<nx>(work.E[j] + nu, by);
#pragma unroll
      for (int s = 0; s < seats; s++) {
        moved[s][j] = 0;
#pragma unroll
        for (int l = 0; l < nx; l++) moved[s][j] += by[l] * w[s][l];
        if (seat[s].taken && seat[s].k == k) moved[s][j] = work.E[j][seat[s].c];
      }
    }
#pragma unroll
    for (int s = 0; s < seats; s++)
#pragma unroll
      for (int j = 0; j < nx; j++) w[s][j] = moved[s][j];
    for (unsigned left = table.free()[k]; left; left &= left - 1) {
      float costate[nx], entry[seats];
#pragma unroll
      for (int j = 0; j < nx; j++) costate[j] = next[j];
      load_vector<nx>(row_of(row + 1) + panel_of(row + 1), next);  // before it may be overwritten
      int spot = condensed().spot[row];
#pragma unroll
      for (int s = 0; s < seats; s++) {
        entry[s] = 0;
#pragma unroll
        for (int j = 0; j < nx; j++) entry[s] += costate[j] * w[s][j];
        if (seat[s].f == row) entry[s] += weight[s];
        if (seat[s].taken && seat[s].spot + nu == spot) entry[s] -= rate[s];
      }
      __syncwarp();
#pragma unroll
      for (int s = 0; s < seats; s++)
        if (seat[s].f <= row) seat[s].row[row] = entry[s];
      row++;
    }
  }
  for (; row <= total || row % panel != 0; row++)
#pragma unroll
    for (int s = 0; s < seats; s++)
      if (seat[s].f <= row) seat[s].row[row] = seat[s].f < row ? 0 : row == total ? 1e30f : 1;  // no pivots
  send_hessian(table);
}

// Adds G' D G with D = stiff_of_sides() to the Hessian if there is a barrier, and puts in the row of the right-hand side.
DEVICE void renew(const Seat (&seat)[seats], int total, bool barrier, const float (&right)[seats]) {
  Condensed &it = condensed();
#pragma unroll
  for (int s = 0; s < seats; s++) {
    const Seat &own = seat[s];
    if (!own.taken) continue;
    own.row[total] = right[s];
    if (!barrier) continue;
    const Block &at = own.block;
    const float *G = it.G + own.k * stride_G, *stiff = stiff_of_sides() + own.k * ns;
    float H[most_columns + 1], diagonal = nb > 0 ? stiff[own.c] + stiff[nb + own.c] : 0;
#pragma unroll
    for (int i = 0; i <= most_columns; i++) H[i] = 0;
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
#pragma unroll
    for (int i = 0; i < most_columns; i++) {
      int c = at.first_column + i;
      if (c < at.columns_end && c <= own.c && (own.free >> c & 1))
        row_of(own.first + __popc(own.free & below(c)))[own.f] += H[i] + (c == own.c ? diagonal : 0);
    }
  }
  __syncwarp();
}

// The Hessian without the barrier, which is on its way, times Condensed::v, for each seat.
DEVICE void times_hessian(const Seat (&seat)[seats], int total, float (&product)[seats]) {
  arrive();
  float sums[seats][2];
#pragma unroll
  for (int s = 0; s < seats; s++) sums[s][0] = sums[s][1] = 0;
#pragma unroll
  for (int first = 0; first < rows_of_H; first += 32) {
#pragma unroll 2
    for (int from = first; from < first + 32; from += panel) {
      if (from >= total) break;  // what follows in the last panel has zeros for the way
      const float *line = row_of(from);
      float v[panel], right[panel];
      load_panel(condensed().v + from, v);
#pragma unroll
      for (int s = 0; s < seats; s++) {
        // Wherever the seat decides which triangle it is, only one of them is read.
        if (first / 32 >= s) load_panel(seat[s].row + from, right);
#pragma unroll
        for (int i = 0; i < panel; i++) {
          bool left = first / 32 < s || (first / 32 == s && from + i <= seat[s].f);
          sums[s][i % 2] += (left ? line[i * stride_at(from) + seat[s].f] : right[i]) * v[i];
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < seats; s++) product[s] = seat[s].taken ? sums[s][0] + sums[s][1] : 0;
}
