// Rings of a course over the picture: where a camera at the drone's pose sees them. World axes are x, y and up; a pose is
// x, y, altitude, yaw and pitch, in world units and radians, as the server has it; the camera sees 75 degrees across.
const FOCAL = 0.5 / Math.tan((37.5 * Math.PI) / 180); // in widths of the picture
const NEAR = 0.5; // world units; nearer is not drawn
const POINTS = 40;
const PATH_UNITS = 200; // world units of the path

// A point of the world in the camera's axes: right, down, ahead. The world wraps after `size`.
export function seenFrom(pose, [x, y, altitude], size) {
  const near = away => away - size * Math.round(away / size);
  const [px, py, high, yaw, pitch] = pose;
  const dx = near(x - px);
  const dy = near(y - py);
  const up = altitude - high;
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const level = dx * cy + dy * sy;
  return [dy * cy - dx * sy, level * sp - up * cp, level * cp + up * sp];
}

// Where a point in the camera's axes is in the picture, in widths from its centre.
export const projected = ([right, down, ahead]) => [(FOCAL * right) / ahead, (FOCAL * down) / ahead];

// A ring as a closed line in the picture, [[x, y], ...]; what lies behind the camera is cut off. Empty where all does.
export function outline(pose, [x, y, altitude, heading, radius], size) {
  const [across, along] = [-Math.sin(heading), Math.cos(heading)];
  const points = [];
  for (let k = 0; k < POINTS; k++) {
    const angle = (2 * Math.PI * k) / POINTS;
    const aside = radius * Math.cos(angle);
    points.push(seenFrom(pose, [x + aside * across, y + aside * along, altitude + radius * Math.sin(angle)], size));
  }
  const kept = [];
  points.forEach((point, k) => {
    const next = points[(k + 1) % POINTS];
    if (point[2] >= NEAR) kept.push(projected(point));
    if (point[2] >= NEAR !== next[2] >= NEAR) {
      const share = (NEAR - point[2]) / (next[2] - point[2]);
      kept.push(projected(point.map((value, axis) => value + share * (next[axis] - value))));
    }
  });
  return kept;
}

// Where to look for a ring: its distance, and where its centre is in the picture; the direction to turn to, in radians
// from the right clockwise, if that is out of sight.
export function bearing(pose, ring, size, ratio) {
  const point = seenFrom(pose, ring, size);
  const distance = Math.hypot(...point);
  const [x, y] = projected(point);
  const isSeen = point[2] > NEAR && Math.abs(x) < 0.5 && Math.abs(y) < 0.5 / ratio;
  if (isSeen) return {distance, at: [x, y], turn: null};
  // Behind the camera up and down say nothing: the way round is left or right.
  const turn = point[2] > 0 ? Math.atan2(point[1], point[0]) : point[0] < 0 ? Math.PI : 0;
  return {distance, at: null, turn};
}

// A pose that leads by what the picture has been warped by (see warp.js).
export function ahead([x, y, altitude, yaw, pitch], {yaw: turn, pitch: tilt, ahead: forward, aside}) {
  const [cos, sin] = [Math.cos(yaw), Math.sin(yaw)];
  return [
    x + PATH_UNITS * (forward * cos - aside * sin),
    y + PATH_UNITS * (forward * sin + aside * cos),
    altitude,
    yaw + (turn * Math.PI) / 180,
    pitch + (tilt * Math.PI) / 180,
  ];
}
