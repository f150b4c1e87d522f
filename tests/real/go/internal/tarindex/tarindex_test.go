package tarindex

import (
	"archive/tar"
	"bytes"
	"testing"
)

func TestAnEntryIsListed(t *testing.T) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	archive.WriteHeader(&tar.Header{Name: "a", Mode: 0o644, Size: 1})
	archive.Write([]byte("x"))
	archive.Close()
	entries, err := Read(&buffer)
	if err != nil || len(entries) != 1 || entries[0].Name != "a" || entries[0].Size != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
}

func TestRubbishIsRefused(t *testing.T) {
	if _, err := Read(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Fatal("no error")
	}
}
