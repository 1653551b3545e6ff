"""The centroidal MPC problem of a walking humanoid: build it, and read its solution as a plan.

State x = [c, l, k]: CoM position (m), linear momentum (kg m/s), angular momentum about the CoM (kg m²/s), in the world.
Input u = [f_L, τ_L, f_R, τ_R]: force (N) and moment about the sole origin (N m) on each foot, in the world. Dynamics
(Orin, Goswami, Lee, "Centroidal dynamics of a humanoid robot", 2013):

    ċ = l / m,   l̇ = Σ f_i + m g,   k̇ = Σ (r_i − c) × f_i + τ_i

With the wrenches held over a stage they integrate exactly, once the CoM in the lever arm is replaced by a predicted
path (see `predicted_path`); this makes the problem a QP. Everything here is for one robot; batches by `jax.vmap`.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import cones
from pimpc.footholds import FootholdConfig, command_path, plan_contacts, rotate_2d
from pimpc.gait import GaitConfig
from pimpc.plan import GRAVITY, CentroidalModel, CentroidalState, ContactPlan, Plan, assemble_plan
from pimpc.problem import LTVProblem, Structure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CentroidalConfig:
    """Weights and limits of the centroidal MPC. Pairs are (horizontal, vertical), so that heading never matters."""

    horizon: int = field(default=10, metadata={"static": True})  # stages
    dt: float = 0.07  # s, stage duration
    q_com: tuple[float, float] = (2e3, 5e4)  # 1/m², CoM position
    q_lin: tuple[float, float] = (10.0, 10.0)  # 1/(kg m/s)², linear momentum
    q_ang: tuple[float, float] = (50.0, 50.0)  # 1/(kg m²/s)², angular momentum
    terminal: float = 10.0  # factor on the state weights of the last knot
    r_force: float = 1e-4  # 1/N², against the weight shared by the feet in stance
    r_moment: float = 1e-4  # 1/(N m)²
    s_force: float = 1e-3  # 1/N², change from one stage to the next
    s_moment: float = 1e-3  # 1/(N m)², change from one stage to the next
    friction_margin: float = 0.8  # share of the friction coefficient that a plan may use
    mu_yaw: float = 0.1  # m, |τ_z| ≤ mu_yaw f_z with yaw = "decoupled"
    force_max: float = 2.2  # body weights, normal force of one foot
    yaw: cones.Yaw = field(default="decoupled", metadata={"static": True})  # "decoupled" (12 rows a foot), "full" (17)
    boxes: bool = field(default=False, metadata={"static": True})  # constant bounds in place of the cones, for ablation
    footholds: FootholdConfig = field(default_factory=FootholdConfig)

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"CentroidalConfig.horizon = {self.horizon}: it counts stages, so at least 1.")


def pack_state(state: CentroidalState) -> Float[Array, "9"]:
    """X = [c, l, k] of a measured state."""
    return jnp.concatenate([state.p_world_com, state.linear_momentum, state.angular_momentum])


def cross_matrix(v: Float[Array, "... 3"]) -> Float[Array, "... 3 3"]:
    """[v]×, so that [v]× w = v × w."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    o = jnp.zeros_like(x)
    return jnp.stack([jnp.stack([o, -z, y], -1), jnp.stack([z, o, -x], -1), jnp.stack([-y, x, o], -1)], -2)


def discretise(
    mass: Float[Array, ""] | float, dt: float, arm: Float[Array, "N 2 3"], stance: Bool[Array, "N 2"]
) -> tuple[Float[Array, "N 9 9"], Float[Array, "N 9 12"], Float[Array, "N 9"]]:
    """A_k, B_k, e_k: the centroidal dynamics over a stage with constant wrenches and constant lever arms.

    Args:
        mass: kg.
        dt: s.
        arm: m, from the CoM to the sole origins, world. Exact for a CoM that moves on a straight line at constant speed
            if the arm is the one half-way through the stage.
        stance: feet that carry load; the columns of the others are zero.
    """
    stages = stance.shape[0]
    eye = jnp.eye(3)
    A = jnp.eye(9).at[:3, 3:6].set(dt / mass * eye)
    e = jnp.zeros(9).at[2].set(-0.5 * dt**2 * GRAVITY).at[5].set(-mass * dt * GRAVITY)
    linear = jnp.broadcast_to(eye, (stages, 2, 3, 3))
    force = jnp.concatenate([dt**2 / (2 * mass) * linear, dt * linear, dt * cross_matrix(arm)], -2)
    moment = jnp.concatenate([jnp.zeros((stages, 2, 6, 3)), dt * linear], -2)
    columns = jnp.where(stance[..., None, None], jnp.concatenate([force, moment], -1), 0.0)  # (N, foot, 9, 6)
    B = jnp.moveaxis(columns, 1, 2).reshape(stages, 9, 12)
    return jnp.broadcast_to(A, (stages, 9, 9)), B, jnp.broadcast_to(e, (stages, 9))


def reference(
    config: CentroidalConfig,
    model: CentroidalModel,
    state: CentroidalState,
    contacts: ContactPlan,
    command: Float[Array, "3"],
    moving: Bool[Array, ""] | bool,
) -> Float[Array, "N 9"]:
    """State references of x_1 … x_N.

    Moving: the CoM follows the command's arc from where it is, at the nominal height, with the momentum of the
    commanded velocity and yaw rate. Not moving: it rests above the middle of the two soles, once both have landed.
    """
    t = config.dt * jnp.arange(1, config.horizon + 1)
    command = jnp.where(moving, command, 0.0)
    displacement, yaw = command_path(state.yaw, command, t)
    velocity = rotate_2d(yaw, command[:2])
    support = jnp.mean(_sole_middles(model, contacts.p_world_foothold[-1], contacts.R_world_foothold[-1]), 0)
    xy = jnp.where(moving, state.p_world_com[:2] + displacement, support[:2])
    height = jnp.full((config.horizon, 1), state.ground_height + model.com_height)
    zero = jnp.zeros((config.horizon, 1))
    spin = jnp.full((config.horizon, 1), model.inertia_zz * command[2])
    return jnp.concatenate([xy, height, model.mass * velocity, zero, zero, zero, spin], -1)


def _sole_middles(
    model: CentroidalModel, p_world_foot: Float[Array, "2 3"], R_world_foot: Float[Array, "2 3 3"]
) -> Float[Array, "2 3"]:
    return p_world_foot + (model.sole[0] - model.sole[1]) / 2 * R_world_foot[..., 0]


def predicted_path(
    config: CentroidalConfig,
    model: CentroidalModel,
    state: CentroidalState,
    command: Float[Array, "3"],
    moving: Bool[Array, ""] | bool,
) -> Float[Array, "N+1 3"]:
    """CoM at the knots 0 … N that the lever arms are taken about, m, world.

    The command's arc from the present CoM, plus the way that the present velocity error still carries the robot if it
    decays with the time constant √(h / g) of the inverted pendulum; the height returns to nominal at the same rate.
    """
    t = config.dt * jnp.arange(config.horizon + 1)
    command = jnp.where(moving, command, 0.0)
    displacement, _ = command_path(state.yaw, command, t)
    tau = jnp.sqrt(model.com_height / GRAVITY)
    decay = jnp.exp(-t / tau)[:, None]
    velocity_error = state.linear_momentum[:2] / model.mass - rotate_2d(state.yaw, command[:2])
    xy = state.p_world_com[:2] + displacement + tau * (1 - decay) * velocity_error
    nominal = state.ground_height + model.com_height
    return jnp.concatenate([xy, nominal + decay * (state.p_world_com[2] - nominal)], -1)


def can_stand(model: CentroidalModel, state: CentroidalState, margin: float = 0.8) -> Bool[Array, ""]:
    """Whether both feet where they are can bring the robot to rest: its capture point lies between the soles.

    Args:
        model: the robot.
        state: the measured state.
        margin: share of the soles' extent around the line between their middles that counts.
    """
    support = _sole_middles(model, state.p_world_foot, state.R_world_foot)[:, :2]
    capture = state.p_world_com[:2] + jnp.sqrt(model.com_height / GRAVITY) * state.linear_momentum[:2] / model.mass
    across = (support[0] - support[1]) / 2
    half = jnp.sqrt(jnp.sum(jnp.square(across)))
    axis = across / jnp.maximum(half, 1e-6)
    offset = capture - jnp.mean(support, 0)
    along = jnp.abs(axis @ offset)
    ahead = jnp.abs(axis[0] * offset[1] - axis[1] * offset[0])
    half_length = (model.sole[0] + model.sole[1]) / 2
    return (along <= half + margin * model.sole[2]) & (ahead <= margin * half_length)


def weight_share(model: CentroidalModel, stance: Bool[Array, "*batch 2"]) -> Float[Array, "*batch 12"]:
    """U = [f_L, τ_L, f_R, τ_R] that carries the weight in equal parts on the feet in stance; zero in flight.

    It is the reference of the inputs, and the `u_prev` of a robot that has no earlier plan.
    """
    share = stance / jnp.maximum(jnp.sum(stance, -1, keepdims=True), 1)
    return (share[..., None] * model.mass * GRAVITY * jnp.eye(6)[2]).reshape(*stance.shape[:-1], 12)


def input_at(plan: Plan, elapsed: Float[Array, ""] | float, dt: float) -> Float[Array, "12"]:
    """Input of a plan `elapsed` seconds after it was made: the `u_prev` of the next problem.

    Args:
        plan: the earlier plan.
        elapsed: s, since the measurement that it starts from.
        dt: s, its knot spacing.
    """
    stage = jnp.clip(jnp.floor(elapsed / dt).astype(jnp.int32), 0, plan.stance.shape[0] - 1)
    return jnp.stack([plan.force[stage], plan.moment[stage]], 1).reshape(12)


def build_problem(
    config: CentroidalConfig,
    gait: GaitConfig,
    model: CentroidalModel,
    state: CentroidalState,
    phase: Float[Array, ""],
    command: Float[Array, "3"],
    moving: Bool[Array, ""] | bool,
    u_prev: Float[Array, "12"],
) -> tuple[LTVProblem, ContactPlan]:
    """The MPC problem of one robot, and the contacts that it assumes.

    Args:
        config: weights and limits.
        gait: the gait.
        model: the robot.
        state: the measured state.
        phase: cycles, see `pimpc.gait`.
        command: (v_x, v_y, omega_z) in the base's yaw frame, m/s and rad/s; read as zero while not moving.
        moving: whether steps are asked for, e.g. `pimpc.gait.is_moving`.
        u_prev: input before this problem: `input_at` of the last plan, or `weight_share` without one.

    Returns:
        The problem and its contacts. u = 0 satisfies all input constraints, so the problem is always feasible.
    """
    command = jnp.where(moving, command, 0.0)
    contacts = plan_contacts(config.footholds, gait, model, state, phase, command, moving, config.dt, config.horizon)
    path = predicted_path(config, model, state, command, moving)
    arm = contacts.p_world_foothold - (path[:-1] + path[1:])[:, None] / 2
    A, B, e = discretise(model.mass, config.dt, arm, contacts.stance)
    G, h, u_min, u_max, structure = _input_constraints(config, model, contacts)
    Q, R, S = _weights(config)
    problem = LTVProblem(
        A=A,
        B=B,
        e=e,
        x0=pack_state(state),
        u_prev=u_prev,
        x_ref=reference(config, model, state, contacts, command, moving),
        u_ref=weight_share(model, contacts.stance),
        Q=Q,
        R=R,
        S=S,
        G=G,
        h=h,
        u_min=u_min,
        u_max=u_max,
        structure=structure,
    )
    return problem, contacts


def _weights(config: CentroidalConfig) -> tuple[Float[Array, "N 9"], Float[Array, "N 12"], Float[Array, "N 12"]]:
    pairs = (config.q_com, config.q_lin, config.q_ang)
    q = jnp.stack([jnp.asarray(pair[i]) for pair in pairs for i in (0, 0, 1)])
    scale = jnp.ones(config.horizon).at[-1].set(config.terminal)
    wrench = jnp.ones((config.horizon, 2, 3))
    R = jnp.stack([config.r_force * wrench, config.r_moment * wrench], 2).reshape(-1, 12)
    S = jnp.stack([config.s_force * wrench, config.s_moment * wrench], 2).reshape(-1, 12)
    return scale[:, None] * q, R, S


def _input_constraints(
    config: CentroidalConfig, model: CentroidalModel, contacts: ContactPlan
) -> tuple[Float[Array, "N m 12"], Float[Array, "N m"], Float[Array, "N 12"], Float[Array, "N 12"], Structure]:
    """Wrench-cone rows of both feet, and bounds that fix a swing foot's wrench to zero."""
    force_max = config.force_max * model.mass * GRAVITY
    friction = config.friction_margin * model.friction
    if config.boxes:
        return _boxes(config, model, contacts, force_max, friction)
    G_foot, h_foot = cones.wrench_cone(friction, model.sole, force_max, config.mu_yaw, config.yaw)
    G = cones.rotate_cone(jnp.broadcast_to(G_foot, (config.horizon, 2, *G_foot.shape)), contacts.R_world_foothold)
    rows = G_foot.shape[0]
    blocks = jnp.zeros((config.horizon, 2, rows, 2, 6))
    blocks = blocks.at[:, 0, :, 0].set(G[:, 0]).at[:, 1, :, 1].set(G[:, 1])
    h = jnp.broadcast_to(jnp.tile(h_foot, 2), (config.horizon, 2 * rows))
    u_max = jnp.where(jnp.repeat(contacts.stance, 6, axis=1), jnp.inf, 0.0)
    structure = Structure(blocks=((rows, 6), (rows, 6)), pins_only=True)
    return blocks.reshape(config.horizon, 2 * rows, 12), h, -u_max, u_max, structure


def _boxes(
    config: CentroidalConfig,
    model: CentroidalModel,
    contacts: ContactPlan,
    force_max: Float[Array, ""],
    friction: Float[Array, ""],
) -> tuple[Float[Array, "N 0 12"], Float[Array, "N 0"], Float[Array, "N 12"], Float[Array, "N 12"], Structure]:
    """The smallest box around each foot's cone, axes of the world: all that the release of the paper asks of forces."""
    toe, heel, half_width = model.sole
    side, zero = jnp.asarray(friction), jnp.zeros(())
    yaw = jnp.asarray(config.mu_yaw)
    upper = force_max * jnp.stack([side, side, jnp.ones(()), half_width, heel, yaw])
    lower = -force_max * jnp.stack([side, side, zero, half_width, toe, yaw])
    stance = contacts.stance[..., None]
    u_min, u_max = (jnp.where(stance, b, 0.0).reshape(config.horizon, 12) for b in (lower, upper))
    return jnp.zeros((config.horizon, 0, 12)), jnp.zeros((config.horizon, 0)), u_min, u_max, Structure()


def to_plan(x: Float[Array, "N+1 9"], u: Float[Array, "N 12"], contacts: ContactPlan) -> Plan:
    """The plan of a solution: `to_plan(solution.x, solution.u, contacts)`."""
    return assemble_plan(x, u, contacts)


def reference_plan(problem: LTVProblem, contacts: ContactPlan) -> Plan:
    """The command's own motion as a plan, without optimization.

    It is the fallback of a failed solve and the "no MPC" ablation. Positions and momenta are the references, forces the
    weight shared by the feet in stance.
    """
    return assemble_plan(jnp.concatenate([problem.x0[None], problem.x_ref]), problem.u_ref, contacts)
