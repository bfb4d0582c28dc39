// Package doctest keeps the documentation true as far as a machine can: every
// public package explains itself in doc.go and shows an example whose output is
// checked, every exported name has a comment, and the commands and links of the
// Markdown files exist.
package doctest
