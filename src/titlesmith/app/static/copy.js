element.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-text]');
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
  } catch {  // browsers offer the clipboard only to pages from this machine or by https
    const box = document.createElement('textarea');
    box.value = button.dataset.text;
    document.body.append(box);
    box.select();
    document.execCommand('copy');
    box.remove();
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
});
