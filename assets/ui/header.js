const KEY = 'wanact-mode';
try { const mode = localStorage.getItem(KEY); if (mode) document.body.classList.toggle('dark', mode === 'dark'); }
catch (error) { /* storage is blocked: the system's choice stands */ }
element.querySelector('.mode').addEventListener('click', () => {
  const dark = document.body.classList.toggle('dark');
  try { localStorage.setItem(KEY, dark ? 'dark' : 'light'); } catch (error) { /* not remembered */ }
});
