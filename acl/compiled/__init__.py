"""What `acl.readable` is made of: the decisions about all ACLs at once, as arrays. Nothing here is public."""
