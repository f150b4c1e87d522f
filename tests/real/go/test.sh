# The program runs from an image without a shell, as the image's user, with its zones and its volume.
mica run --rm --network none --entrypoint probe "$IMAGE" http://127.0.0.1:8080/whoami layerd -data /var/lib/layerd \
  > "$TMPDIR/said"
grep -Fx 'layerd 1.4.2 (abc123)' "$TMPDIR/said"
grep -Fx 'nonroot 65532:65532' "$TMPDIR/said"
grep -Fx 'stopped' "$TMPDIR/said"
mica cat "$IMAGE" /usr/share/layerd/test-report.txt | grep -F -e '--- PASS: TestAnEntryIsListed'
if mica run --rm --entrypoint sh "$IMAGE" -c true; then exit 1; fi
