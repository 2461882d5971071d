// Marks the row with most parts: what a page gives as `data` is in the page's JSON.
{
  const { data } = JSON.parse(document.getElementById("page").textContent);
  for (const row of document.querySelectorAll(".counts tbody tr")) {
    row.classList.toggle("most", Number(row.dataset.parts) === data.most);
  }
}
