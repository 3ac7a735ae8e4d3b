// A picture is a link to itself in full size: on a phone its labels are too small.
document.addEventListener("DOMContentLoaded", () => {
  for (const picture of document.querySelectorAll("article img")) {
    if (picture.closest("a")) continue;
    const link = document.createElement("a");
    link.href = picture.src;
    link.title = "Open in full size";
    picture.replaceWith(link);
    link.append(picture);
  }
});
