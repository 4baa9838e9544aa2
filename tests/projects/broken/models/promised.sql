{{ config(materialized='table', contract={'enforced': true}) }}
select {{ "'one'" if 'contract' in var('broken') else 'number' }} as number from {{ ref('solid') }}
