// Package tarindex lists the entries of a tar.
package tarindex

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
)

// Entry is a member of a tar.
type Entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

// Read lists the entries in their order.
func Read(r io.Reader) ([]Entry, error) {
	entries := []Entry{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, archive); err != nil {
			return nil, err
		}
		entries = append(entries, Entry{header.Name, header.Size, hex.EncodeToString(hash.Sum(nil))})
	}
}
