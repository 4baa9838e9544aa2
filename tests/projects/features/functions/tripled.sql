select number * 3
