// The eight channels in the order of the model, as the page names and draws them. `icon` is the path of a
// 24 x 24 drawing.
export const CHANNELS = [
  {id: 'forward', label: 'Forward', key: 'W', code: 'KeyW', group: 'move', icon: 'M12 4l8 13H4z'},
  {id: 'back', label: 'Back', key: 'S', code: 'KeyS', group: 'move', icon: 'M12 20l8-13H4z'},
  {id: 'left', label: 'Left', key: 'A', code: 'KeyA', group: 'move', icon: 'M4 12l13-8v16z'},
  {id: 'right', label: 'Right', key: 'D', code: 'KeyD', group: 'move', icon: 'M20 12L7 4v16z'},
  {
    id: 'yaw_left',
    label: 'Turn left',
    key: '←',
    code: 'ArrowLeft',
    group: 'look',
    icon: 'M9 3L2 9l7 6v-4h3a6 6 0 0 1 6 6v4h4v-4A10 10 0 0 0 12 7H9z',
  },
  {
    id: 'yaw_right',
    label: 'Turn right',
    key: '→',
    code: 'ArrowRight',
    group: 'look',
    icon: 'M15 3l7 6-7 6v-4h-3a6 6 0 0 0-6 6v4H2v-4A10 10 0 0 1 12 7h3z',
  },
  {
    id: 'pitch_up',
    label: 'Look up',
    key: '↑',
    code: 'ArrowUp',
    group: 'look',
    icon: 'M12 3l8 8-3 3-5-5-5 5-3-3zM5 17h14v4H5z',
  },
  {
    id: 'pitch_down',
    label: 'Look down',
    key: '↓',
    code: 'ArrowDown',
    group: 'look',
    icon: 'M12 21l8-8-3-3-5 5-5-5-3 3zM5 3h14v4H5z',
  },
];
export const OPPOSITE = [1, 0, 3, 2, 5, 4, 7, 6];

export function channelIcon(channel) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', CHANNELS[channel].icon);
  svg.append(path);
  return svg;
}

// The eight lamps of a heads-up display, put into its `.hud .move` and `.hud .look`.
export const channelLamps = find =>
  CHANNELS.map((channel, i) => {
    const lamp = document.createElement('div');
    lamp.className = 'lamp ' + channel.id;
    lamp.append(channelIcon(i));
    find('.hud .' + channel.group).append(lamp);
    return lamp;
  });
