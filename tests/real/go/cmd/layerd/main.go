// Layerd answers which entries a tar has.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"syscall"
	"time"

	"example.org/layerd/internal/tarindex"
)

var version, commit string

//go:embed banner.txt
var banner string

func main() {
	data := flag.String("data", ".", "a directory that can be written")
	zone := flag.String("zone", "Europe/Berlin", "a time zone of the image")
	flag.Parse()
	fmt.Printf("%s%s (%s)\n", banner, version, commit)
	who, err := user.Current()
	if err != nil {
		log.Fatal(err)
	}
	location, err := time.LoadLocation(*zone)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(*data+"/started", []byte(time.Now().In(location).Format(time.RFC3339)), 0o644); err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/whoami", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s %s:%s\n", who.Username, who.Uid, who.Gid)
	})
	mux.HandleFunc("/index", func(w http.ResponseWriter, r *http.Request) {
		entries, err := tarindex.Read(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(entries)
	})
	server := http.Server{Handler: mux}
	listener, err := net.Listen("tcp", os.Getenv("LAYERD_ADDR"))
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	fmt.Println("stopped")
}
