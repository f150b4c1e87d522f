// Probe asks a URL, a few times if need be, and says what was answered: a health check for an image without a shell.
// With a program after the URL it starts that first and stops it at the end.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: probe URL [PROGRAM [ARG...]]")
		os.Exit(2)
	}
	if len(os.Args) > 2 {
		server := exec.Command(os.Args[2], os.Args[3:]...)
		server.Stdout, server.Stderr = os.Stdout, os.Stderr
		if err := server.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer server.Wait()
		defer server.Process.Signal(syscall.SIGTERM)
	}
	for try := 0; ; try++ {
		response, err := http.Get(os.Args[1])
		if err == nil {
			io.Copy(os.Stdout, response.Body)
			return
		}
		if try == 50 {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
