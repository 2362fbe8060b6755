"""What every part of the project uses: errors, safe writing of files, lookup by name, run folders, drawing."""
