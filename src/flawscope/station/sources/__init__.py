"""Where pictures come from by themselves: folders, video files, cameras. Each kind keeps the contract of
`source.Source`; what a file of settings says of them is in `settings`."""
