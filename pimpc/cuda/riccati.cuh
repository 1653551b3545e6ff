// The recursions of `pimpc.riccati`. What stays of a stage is its swept Hessian: with H the Hessian in the free inputs, F
// its block with the states, and L that of the states,
//
//     T = [[-1/H, F/H], [F'/H, L - F'F/H]],
//
// which gives the value of the stage before, and whose first rows serve both directions of a solve. Inputs that are not
// free have rows and columns of zeros.
//
// With E = [[I, 0], [B_k, A_k]] and P the Hessian of the next stage's value in (u_k, x_{k+1}), a stage's Hessian is E' P E
// and its own. The free inputs and then the states, its rows and columns, are dealt out in eight slots of W; lane (g, h)
// has the rows of the slots g and g + 4 and the columns of slot h in registers. A slot takes four places in a row on the
// chip, so that one access brings it. Slots may be more than there are rows: what they hold is never used.

template <int W>
DEVICE void load_slot(const float *row, int slot, float (&to)[W]) {
  float4 v = *(const float4 *)(row + 4 * slot);
  to[0] = v.x;
  if (W > 1) to[1 % W] = v.y;
  if (W > 2) to[2 % W] = v.z;
  if (W > 3) to[3 % W] = v.w;
}

template <int W>
DEVICE void store_slot(float *row, int slot, const float (&from)[W]) {
  *(float4 *)(row + 4 * slot) = make_float4(from[0], from[1 % W], from[2 % W], from[3 % W]);
}

template <int W>
struct Tile {
  float M[2][W][W];
};

// M += L' R for nx rows.
template <int W>
DEVICE void multiply(Tile<W> &tile, const float (*L)[LD], const float (*R)[LD]) {
  int g = lane() / 8, h = lane() % 8;
#pragma unroll 3
  for (int j = 0; j < nx; j++) {
    float above[W], below[W], right[W];
    load_slot<W>(L[j], g, above);
    load_slot<W>(L[j], g + 4, below);
    load_slot<W>(R[j], h, right);
#pragma unroll
    for (int i = 0; i < W; i++)
#pragma unroll
      for (int c = 0; c < W; c++) {
        tile.M[0][i][c] += above[i] * right[c];
        tile.M[1][i][c] += below[i] * right[c];
      }
  }
}

// Sweeps the first `count` rows (Goodnight 1979), as far as they are among the upper or the lower slots.
template <int W, int half>
DEVICE void sweep(Tile<W> &tile, int count) {
  int g = lane() / 8, h = lane() % 8;
  for (int slot = 4 * half; slot < 4 * half + 4 && slot * W < count; slot++) {
    bool own_row = g == slot % 4, own_column = h == slot;
    int from = slot % 4 * 8;  // the first lane of those that have the pivot's row
#pragma unroll
    for (int i = 0; i < W; i++) {
      if (slot * W + i < count) {
        float above[W], below[W], right[W], pivot = __shfl_sync(ALL, tile.M[half][i][i], from + slot);
#pragma unroll
        for (int c = 0; c < W; c++) {
          above[c] = __shfl_sync(ALL, tile.M[half][i][c], from + g);
          below[c] = __shfl_sync(ALL, tile.M[half][i][c], from + g + 4);
          right[c] = __shfl_sync(ALL, tile.M[half][i][c], from + h);
        }
        // A Hessian that is not positive definite must not pass for one.
        float inverse = pivot > 0 ? ratio(1, pivot) : NOT_A_NUMBER;
        // The pivot's own row and column start anew.
        if (own_row) (half == 0 ? above : below)[i] = -1;
        if (own_column) right[i] = -1;
#pragma unroll
        for (int r = 0; r < W; r++) {
          right[r] *= inverse;
          if (own_row) tile.M[half][i][r] = 0;
          if (own_column) tile.M[0][r][i] = tile.M[1][r][i] = 0;
        }
#pragma unroll
        for (int r = 0; r < W; r++)
#pragma unroll
          for (int c = 0; c < W; c++) {
            tile.M[0][r][c] -= above[r] * right[c];
            tile.M[1][r][c] -= below[r] * right[c];
          }
      }
    }
  }
}

// Adds G' D G, D = Work::stiff of the rows, to the rows of the inputs in Work::X.
template <int W>
DEVICE void gram(const Places &at, unsigned free) {
  constexpr int most = (most_columns + sharers - 1) / sharers;
  if (m == 0) return;
  int c = shared_column();
  if (c < nu && (free >> c & 1)) {
    int first = at.first_column + share() * most, own = __popc(free & ((1u << c) - 1)), place = own / W * 4 + own % W;
    const float *G = work.G + first, *column = work.G + c, *stiff = work.stiff + 2 * nb + at.rows_first;
    float H[most];
#pragma unroll
    for (int i = 0; i < most; i++) H[i] = 0;
#pragma unroll 12
    for (int l = 0; l < lines; l++) {
      if (!same_rows && l >= at.rows_count) break;
      float f = stiff[l] * column[l * nu];
#pragma unroll
      for (int i = 0; i < most; i++) H[i] += G[l * nu + i] * f;
    }
    float *X[most];
#pragma unroll
    for (int i = 0; i < most; i++) {
      int r = first + i < nu ? first + i : 0;
      X[i] = &work.X[__popc(free & ((1u << r) - 1))][place];
      H[i] += *X[i];
    }
#pragma unroll
    for (int i = 0; i < most; i++)
      if (first + i < at.columns_end && (free >> (first + i) & 1)) *X[i] = H[i];
  }
}

// The swept Hessian of a stage from that of the next one, in place of which it may come.
//
// free, count: the inputs that may move, as bits, and their number. ba: column `lane` of [B_k, A_k]. diagonal: column
// `lane` of the stage's own Hessian; that of G' D G comes from `gram`. rate: column `lane` of the next stage's. T_next, T:
// first rows of the swept Hessians; Work::P_xx the rest of the next, and then of this.
template <int W>
DEVICE void factorize(const Places &at, unsigned free, int count, const float (&ba)[nx], float diagonal, float rate,
                      bool barrier, const float *T_next, float *T) {
  int c = lane(), g = c / 8, h = c % 8;
  bool moves = c < n && (c >= nu || (free >> c & 1));
  int own = c < nu ? __popc(free & ((1u << c) - 1)) : count + c - nu, place = own / W * 4 + own % W;
  work.u[c] = rate;
  __syncwarp();
  // Rows of P, those of the inputs with the stage's own Hessian: these are not multiplied by E. Lanes write on where a row
  // is left out, and come to the right place after all: a branch for each row would cost more than all of them.
  if (moves && c < nu) {
    float rates[nu], *X = &work.X[0][place];
    load_vector<nu>(work.u, rates);
#pragma unroll
    for (int r = 0; r < nu; r++) rates[r] *= rate * T_next[r * n + c];
#pragma unroll
    for (int r = 0; r < nu; r++) {
      *X = rates[r] + (r == c ? rate + diagonal : 0);
      X += free >> r & 1 ? LD : 0;
    }
  }
  if (moves) {
    const float *P = c < nu ? T_next + c * n + nu : work.P_xx[c - nu];
    float scale = c < nu ? rate : 1, *X = &work.X[count][place], *E = &work.E[0][place], rows[nx];
#pragma unroll
    for (int j = 0; j < nx; j++) rows[j] = scale * P[j];
#pragma unroll
    for (int j = 0; j < nx; j++) {
      E[j * LD] = ba[j];
      X[j * LD] = j == c - nu ? rows[j] + diagonal : rows[j];
    }
  }
  __syncwarp();
  if (barrier) {
    gram<W>(at, free);
    __syncwarp();
  }
  Tile<W> tile;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < W; i++) {
      int r = (g + 4 * half) * W + i;
      float row[W];
      load_slot<W>(work.X[r < n ? r : 0], h, row);
#pragma unroll
      for (int j = 0; j < W; j++) tile.M[half][i][j] = h * W + j < count ? row[j] : 0;
    }
  multiply<W>(tile, work.X + count, work.E);
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < W; i++) {
      int r = (g + 4 * half) * W + i;
      if (r >= count && r < count + nx) {
        store_slot<W>(work.X[r], h, tile.M[half][i]);
#pragma unroll
        for (int j = 0; j < W; j++) tile.M[half][i][j] = 0;
      }
    }
  __syncwarp();
  multiply<W>(tile, work.E, work.X + count);
  sweep<W, 0>(tile, count);
  if ((nu < 8 * W - nx ? nu : 8 * W - nx) > 4 * W) sweep<W, 1>(tile, count);
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < W; i++) {
      int r = (g + 4 * half) * W + i;
      if (r < count + nx) store_slot<W>(work.X[r], h, tile.M[half][i]);
    }
  __syncwarp();
  if (c < n) {
    const float *X = &work.X[0][moves ? place : 0];
    float row[nu > nx ? nu : nx];
#pragma unroll
    for (int r = 0; r < nu; r++) {
      row[r] = moves && (free >> r & 1) ? *X : 0;
      X += free >> r & 1 ? LD : 0;
    }
#pragma unroll
    for (int r = 0; r < nu; r++) T[r * n + c] = row[r];
    if (c >= nu) {
#pragma unroll
      for (int j = 0; j < nx; j++) row[j] = X[j * LD];
      // Taken from one half: rounding's other part would grow from stage to stage.
#pragma unroll
      for (int j = 0; j < nx; j++)
        if (j <= c - nu) work.P_xx[c - nu][j] = work.P_xx[j][c - nu] = row[j];
    }
  }
  __syncwarp();
}

// As few slots as the free inputs allow.
DEVICE void factorize_stage(const Places &at, unsigned free, const float (&ba)[nx], float diagonal, float rate, bool barrier,
                            const float *T_next, float *T) {
  constexpr int all = (n + 7) / 8, few = (nu / 2 + nx + 7) / 8;
  int count = __popc(free);
  if (few < all && count + nx <= 8 * few) factorize<few>(at, free, count, ba, diagonal, rate, barrier, T_next, T);
  else factorize<all>(at, free, count, ba, diagonal, rate, barrier, T_next, T);
}

// One stage of the backward pass of a linear term: p is that of the next stage's value in (du_k, dx_{k+1}), slope the
// stage's own. Returns that of the value before and adds what the minimum is lower by to `saved`; t: swept.
DEVICE float linear_before(const float (&ba)[nx], const float *T, float rate, float p, float slope, float &t, float &saved) {
  int c = lane();
  p += slope;
  work.v[c] = p;
  __syncwarp();
  float m_c = c < nu ? p : 0, vector[nu > nx ? nu : nx];
  load_vector<nx>(work.v + nu, vector);
#pragma unroll
  for (int j = 0; j < nx; j++) m_c += vector[j] * ba[j];
  work.u[c] = m_c;
  __syncwarp();
  t = c < nu ? 0 : m_c;
  const float *column = T + (c < n ? c : 0);
  load_vector<nu>(work.u, vector);
#pragma unroll
  for (int i = 0; i < nu; i++) t -= vector[i] * column[i * n];
  if (c < nu) saved += 0.5f * m_c * t;
  return c < nu ? rate * t : t;
}

// One stage of the forward pass: (du_k, dx_{k+1}) from (du_{k-1}, dx_k). Leaves du_k in Work::v.
DEVICE float forward(const float (&ba)[nx], const float *T, float t, float rate, float before) {
  int c = lane();
  work.u[c] = c < nu ? rate * before : c < n ? before : 0;
  __syncwarp();
  float u = -(t + product<nu, n, n>(T, work.u));
  float next = ahead(ba, c < nu ? u : before);
  if (c < nu) work.v[c] = u;
  __syncwarp();
  return c < nu ? u : next;
}
