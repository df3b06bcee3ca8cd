"""What people look at: pictures of results, pages, sheets, heat maps and plots."""
