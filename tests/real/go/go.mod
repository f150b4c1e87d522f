module example.org/layerd

go 1.19
