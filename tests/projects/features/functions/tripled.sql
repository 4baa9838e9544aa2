number * 3
