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

DEVICE void load_four(const float *from, float (&to)[4]) {
  float4 v = *(const float4 *)from;
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

DEVICE void store_four(float *to, const float (&from)[4]) { *(float4 *)to = make_float4(from[0], from[1], from[2], from[3]); }

// Numbers of the rows of a block, next to each other.
DEVICE void load_lines(const float *from, float (&to)[most_lines]) {
#pragma unroll
  for (int l = 0; l < tall; l += 4) {
    float four[4];
    load_four(from + l, four);
#pragma unroll
    for (int i = 0; i < 4; i++) to[(l + i) % most_lines] = four[i];
  }
}

// Adds G' D G, D being how stiff the sides are, to the Hessian if there is a barrier; puts in the row of the right-hand side.
DEVICE void renew(const Tables &table, const Seat (&seat)[seats], int total, bool barrier, const float (&right)[seats]) {
  const float *stiff = table.stiff();
#pragma unroll
  for (int s = 0; s < seats; s++) {
    const Seat &own = seat[s];
    if (!own.taken) continue;
    own.row[total] = right[s];
    if (!barrier) continue;
    if (nb > 0) own.row[own.f] += stiff[work.lower_sides + own.f] + stiff[work.upper_sides + own.f];
    if (m == 0) continue;
    float pushed[most_lines], column[most_lines];
    load_lines(stiff + own.rows, pushed);
    load_lines(condensed().G + own.f * tall, column);
#pragma unroll
    for (int l = 0; l < tall; l++) pushed[l] *= column[l];
#pragma unroll
    for (int i = 0; i < most_columns; i++) {
      int f = own.first + i;
      if (f > own.f) continue;
      load_lines(condensed().G + f * tall, column);
      float sums[2] = {0, 0};
#pragma unroll
      for (int l = 0; l < tall; l++) sums[l % 2] += column[l] * pushed[l];
      row_of(f)[own.f] += sums[0] + sums[1];
    }
  }
  __syncwarp();
}

// The Hessian without the barrier, which is on its way, times `vector_of_inputs`, for each seat.
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
      load_panel(vector_of_inputs() + from, v);
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
