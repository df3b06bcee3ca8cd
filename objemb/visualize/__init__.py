"""Output for people: pictures of results, pages, sheets, heat maps and plots."""
