import {connect} from './events.js';

export function mount({element, props, watch}) {
  const {hear} = connect(element);
  const line = element.querySelector('.saved');
  hear('live-saving', ({what}) => {
    line.textContent =
      {record: 'Writing the flight…', gif: 'Drawing the GIF…', webp: 'Drawing the WebP…'}[what] || 'Writing the clip…';
  });
  watch('value', () => {
    const value = props.value;
    if (!value || (!value.file && !value.problem)) return;
    line.textContent = value.problem || '';
    if (!value.file) return;
    const link = document.createElement('a');
    link.href = value.file.url;
    link.download = value.file.orig_name || 'wanact-live';
    link.textContent = '↓ ' + link.download;
    line.append(link, value.caption || '');
    link.click();
  });
}
