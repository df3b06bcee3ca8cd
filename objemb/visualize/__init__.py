"""Visualisation: pictures of results, HTML pages, contact sheets, heat maps and plots."""
